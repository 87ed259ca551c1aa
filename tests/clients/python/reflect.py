"""Looks names up by reflection as grpcio-reflection does, for tests/reflection.rs.

    TEST_CREDENTIAL=... reflect.py ADDRESS

Prints a line for each thing that held, and stops with a status other than 0 at the first that did not.
"""

import os
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Credential(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends the credential with every stream."""

    def intercept_stream_stream(self, continuation, details, requests):
        metadata = [("authorization", f"Bearer {os.environ['TEST_CREDENTIAL']}")]
        return continuation(details._replace(metadata=metadata), requests)

    def intercept_unary_stream(self, continuation, details, request):
        return continuation(details, request)


def held(condition, what):
    if not condition:
        sys.exit(f"did not hold: {what}")
    print(f"ok  {what}", flush=True)


def main(address):
    channel = grpc.intercept_channel(grpc.insecure_channel(address), Credential())
    database = ProtoReflectionDescriptorDatabase(channel)
    held("portcullis.v1.TokenService" in database.get_services(), "services are listed")
    pool = DescriptorPool(database)
    for find, name in [
        (pool.FindServiceByName, "no.such.Service"),
        (pool.FindMessageTypeByName, "portcullis.v1.NoSuchMessage"),
        (pool.FindFileByName, "no/such/file.proto"),
    ]:
        try:
            find(name)
        except KeyError:
            held(True, f"{name} is not found")
        else:
            held(False, f"{name} is not found")
    service = pool.FindServiceByName("portcullis.v1.TokenService")
    held("ListTokens" in service.methods_by_name, "a service is found after that")
    message = pool.FindMessageTypeByName("portcullis.v1.AuthorizeRequest")
    held("client_ip" in message.fields_by_name, "and a message")

    # All on one stream.
    names = ["no.such", "portcullis.v1.TokenService", "", "portcullis.v1.DECISION_ALLOW"]
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = list(stub.ServerReflectionInfo(iter(requests)))
    kinds = [answer.WhichOneof("message_response") for answer in answers]
    file, error = "file_descriptor_response", "error_response"
    held(kinds == [error, file, error, file], f"a stream goes on after an unknown name: {kinds}")
    code = grpc.StatusCode.NOT_FOUND.value[0]
    held(answers[0].error_response.error_code == code, "the error is NOT_FOUND")
    echoed = [answer.original_request for answer in answers]
    held(echoed == requests, "each answer names its request")


main(*sys.argv[1:])
