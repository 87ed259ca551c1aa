"""A trace from a client's own span to the SQL statement, as a collector of OpenTelemetry's own protocol receives it.

    TEST_CREDENTIAL=... traced.py

Starts a collector and prints its port. Then reads from standard input, a line each: the address of a plaintext server
that sends its spans there, the id of a token, and its secret. The calls are made within a span of OpenTelemetry's SDK,
which is exported to the same collector. Prints a line for each thing that held, and stops with a status other than 0 at
the first that did not.
"""

import os
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from story import DEADLINE, check, equal, generate, held


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it receives, by name of the service."""

    def __init__(self):
        self.spans = []
        self.changed = threading.Condition()

    def Export(self, request, context):
        with self.changed:
            for resource in request.resource_spans:
                names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [(names["service.name"], span) for span in scope.spans]
            self.changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, trace, name):
        """Waits for the one span of that name in a trace."""
        def found():
            return [
                (service, span)
                for service, span in self.spans
                if span.trace_id == trace and span.name == name
            ]

        with self.changed:
            arrived = self.changed.wait_for(found, timeout=DEADLINE)
            check(arrived, f"no span {name} in", [(s, p.name) for s, p in self.spans])
            return found()[0]


def attributes(span):
    return {pair.key: pair.value.string_value for pair in span.attributes}


def chain(collector, trace, names):
    """Checks that each span is the child of the one before it."""
    parent = b""
    for service, name in names:
        seen, span = collector.named(trace, name)
        equal(seen, service, f"the service of {name}")
        equal(span.parent_span_id, parent, f"the parent of {name}")
        parent = span.span_id
    return span


def main():
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    address, token_id, secret = (sys.stdin.readline().strip() for _ in range(3))

    out, modules = generate()
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}", insecure=True)
    provider = TracerProvider(resource=Resource.create({"service.name": "client"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    channel = grpc.insecure_channel(address)
    bearer = [("authorization", f"Bearer {os.environ['TEST_CREDENTIAL']}")]

    def traced(name, call, request):
        """Makes a call within a span of its own; the id of the trace."""
        with tracer.start_as_current_span(name) as span:
            headers = {}
            propagate.inject(headers)
            call(request, metadata=bearer + list(headers.items()), timeout=DEADLINE)
            return span.get_span_context().trace_id.to_bytes(16, "big")

    tokens = modules["token_service_grpc"].TokenServiceStub(channel)
    request = modules["token_service"].GetTokenRequest(token_id=token_id)
    trace = traced("read a token", tokens.GetToken, request)
    names = [("client", "read a token"), ("portcullis", "GetToken"), ("portcullis", "token")]
    statement = chain(collector, trace, names + [("portcullis", "SELECT")])
    check("$1" in attributes(statement)["db.query.text"], attributes(statement))
    held("a management call leads to its statement")

    authorization = modules["authorization_service_grpc"].AuthorizationServiceStub(channel)
    request = modules["authorization_service"].AuthorizeRequest(
        token=secret, client_ip="192.0.2.1", scope="transactions.read"
    )
    trace = traced("a request of a customer", authorization.Authorize, request)
    names = [("client", "a request of a customer"), ("portcullis", "Authorize")]
    decision = chain(collector, trace, names)
    equal(attributes(decision)["portcullis.decision"], "ALLOW", "the decision")
    chain(collector, trace, names + [("portcullis", "token_facts"), ("portcullis", "SELECT")])
    held("a decision on a token that is not in memory leads to its statement")

    everything = str(collector.spans)
    for value in [secret, os.environ["TEST_CREDENTIAL"]]:
        check(value not in everything, "a secret is in a span")
    held("no span has a secret")
    server.stop(None)
    print("the whole trace held", flush=True)


if __name__ == "__main__":
    main()
