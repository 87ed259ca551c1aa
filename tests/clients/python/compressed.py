"""Makes calls over a channel that compresses what it sends in gzip.

    TEST_CREDENTIAL=... compressed.py ADDRESS PATH=MESSAGE...

MESSAGE is a request as hexadecimal digits. Stops with a status other than 0 at the first call that fails.
"""

import os
import sys

import grpc


def main(address, calls):
    channel = grpc.insecure_channel(address, compression=grpc.Compression.Gzip)
    metadata = [("authorization", f"Bearer {os.environ['TEST_CREDENTIAL']}")]
    for call in calls:
        path, message = call.split("=")
        message = bytes.fromhex(message)
        if path.endswith("/StreamAuthorize"):
            answers = list(channel.stream_stream(path)(iter([message] * 3), metadata=metadata, timeout=30))
            if len(answers) != 3:
                sys.exit(f"{path}: {len(answers)} answers")
        else:
            channel.unary_unary(path)(message, metadata=metadata, timeout=30)
        print(f"ok  {path}")


main(sys.argv[1], sys.argv[2:])
