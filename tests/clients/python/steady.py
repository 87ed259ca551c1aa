"""Calls a server over one channel, again and again, until its connections were replaced several times.

    python steady.py ADDRESS CONNECTIONS

gRPC's own client (C core) opens a connection when the server asks for it to end. No call may fail. Prints how many
calls were made, and over how many connections.
"""

import sys
import threading

import grpc

PATIENCE = 60


def main(address, connections):
    channel = grpc.insecure_channel(address)
    seen = []
    enough = threading.Event()

    def notice(state):
        if state == grpc.ChannelConnectivity.READY:
            seen.append(state)
            if len(seen) >= connections:
                enough.set()

    channel.subscribe(notice, try_to_connect=True)
    raw = lambda message: message
    check = channel.unary_unary("/grpc.health.v1.Health/Check", raw, raw)
    calls = [0] * 4

    def call(index):
        while not enough.is_set():
            # Any status but OK is an exception, which ends the program.
            check(b"", timeout=PATIENCE)
            calls[index] += 1

    failures = []

    def guarded(index):
        try:
            call(index)
        except grpc.RpcError as error:
            failures.append(error)
            enough.set()

    threads = [threading.Thread(target=guarded, args=[index]) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    if not enough.wait(PATIENCE):
        failures.append(f"only {len(seen)} connections")
        enough.set()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"{failures[0]}")
    print(f"{sum(calls)} calls over {len(seen)} connections")


main(sys.argv[1], int(sys.argv[2]))
