"""Reads protobuf messages as Google's own implementation does (upb), for tests/protobuf.rs.

    upb.py CASES VERDICTS

CASES holds any number of cases: the root message as one byte (0 AuthorizeRequest, 1
StreamAuthorizeRequest, 2 BatchAuthorizeRequest), the length as four bytes, and the message. For each
one, VERDICTS gets a byte, 0 for refused or 1 for accepted, and behind a 1 the length and the bytes of what
was read, written anew without unknown fields. Lengths are little-endian.
"""

import importlib
import pathlib
import struct
import sys
import tempfile

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"


def generate(into):
    files = ["authorization_service.proto", "types.proto"]
    common = pathlib.Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        ["protoc", f"-I{PROTO}", f"-I{common}", f"--python_out={into}"]
        + [f"portcullis/v1/{file}" for file in files]
    )
    if status != 0:
        sys.exit(f"protoc failed with {status}")
    sys.path.insert(0, into)
    return importlib.import_module("portcullis.v1.authorization_service_pb2")


def main(cases, verdicts):
    if api_implementation.Type() != "upb":
        sys.exit(f"this protobuf is {api_implementation.Type()}, not upb")
    with tempfile.TemporaryDirectory(prefix="portcullis-upb-") as into:
        module = generate(into)
    roots = [module.AuthorizeRequest, module.StreamAuthorizeRequest, module.BatchAuthorizeRequest]
    data = pathlib.Path(cases).read_bytes()
    out = bytearray()
    at = 0
    while at < len(data):
        root, length = struct.unpack_from("<BI", data, at)
        at += 5
        try:
            message = roots[root].FromString(data[at : at + length])
        except DecodeError:
            out.append(0)
        else:
            message.DiscardUnknownFields()
            read = message.SerializeToString()
            out += struct.pack("<BI", 1, len(read)) + read
        at += length
    pathlib.Path(verdicts).write_bytes(out)


main(*sys.argv[1:])
