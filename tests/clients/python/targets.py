"""Calls a server by each of the targets that it is given."""

import os
import sys

import grpc

for target in sys.argv[1:]:
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/portcullis.v1.CatalogService/GetCatalog")
        metadata = [("authorization", "Bearer " + os.environ["TEST_CREDENTIAL"])]
        for _ in range(3):
            assert call(b"", metadata=metadata, timeout=30)
    print("answered")
