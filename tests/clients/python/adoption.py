"""Tokens that a company issued before, from their import to their end, by a client generated from proto/.

    TEST_CREDENTIAL=... adoption.py ADDRESS ANOTHER

The addresses are those of two plaintext servers with one store and the built-in catalogue, or twice the same.
TEST_CREDENTIAL is an operator's. Prints a line for each thing that held, and stops with a status other than 0 at
the first that did not.
"""

import hashlib
import os
import secrets
import sys
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from story import CODE, MODULES, Caller, Violation, accounts, authz, check, equal, held, refused, tokens, types

own = MODULES["self_service"]
IMPORTED = 1_000
ADDRESS = "198.51.100.9"
PATIENCE = 30.0


def digest(secret):
    return hashlib.sha256(secret.encode()).digest()


def until(condition, what):
    """Waits for something that happens by itself."""
    end = time.monotonic() + PATIENCE
    while not condition():
        check(time.monotonic() < end, "did not happen:", what)
        time.sleep(0.1)


def main(*addresses):
    channels = [grpc.insecure_channel(address) for address in addresses]
    operators = [Caller(channel, os.environ["TEST_CREDENTIAL"]) for channel in channels]
    operator = operators[0]
    account = operator.CreateAccount(
        accounts.CreateAccountRequest(name="Adoption", admin_emails=["ada@example.com"])
    ).account

    def decide(secret, **fields):
        """The reason, which must be the same at both servers."""
        request = authz.AuthorizeRequest(token=secret, client_ip=ADDRESS, scope="transactions.read", **fields)
        answers = [each.Authorize(request) for each in operators]
        reasons = {authz.Reason.Name(answer.reason) for answer in answers}
        equal(len(reasons), 1, "the reasons")
        return reasons.pop()

    def get(token_id):
        return operator.GetToken(tokens.GetTokenRequest(token_id=token_id)).token

    # --- the import
    issued = [f"legacy:{n}:{secrets.token_urlsafe(32)}" for n in range(IMPORTED)]
    items = [
        tokens.ImportToken(name=f"legacy {n}", kind=types.TOKEN_KIND_READ_ONLY, secret_sha256=digest(secret))
        for n, secret in enumerate(issued)
    ]
    request = tokens.ImportTokensRequest(account_id=account.account_id, tokens=items)
    results = operator.ImportTokens(request).results
    equal([result.WhichOneof("result") for result in results], ["token"] * IMPORTED, "the results")
    check(not any(result.already_existed for result in results), "a new token existed already")
    ids = [result.token.token_id for result in results]
    held("1,000 tokens are imported by the digests of their secrets")

    again = operator.ImportTokens(request).results
    check(all(result.already_existed for result in again), "an import was made twice")
    equal([result.token.token_id for result in again], ids, "the tokens of a second import")
    held("a second import changes nothing")

    writer = tokens.ImportToken(
        name="writer", kind=types.TOKEN_KIND_READ_WRITE, secret_sha256=digest("no whitelist")
    )
    bad = operator.ImportTokens(tokens.ImportTokensRequest(account_id=account.account_id, tokens=[writer]))
    equal([result.WhichOneof("result") for result in bad.results], ["error"], "a write token without a whitelist")
    held("what breaks a rule is refused by itself")

    # --- use
    for n in (0, IMPORTED // 2, IMPORTED - 1):
        equal(decide(issued[n]), "REASON_ALLOWED", f"legacy {n}")
    equal(decide("secret-token:" + issued[0]), "REASON_ALLOWED", "with the prefix of RFC 8959")
    for string in (digest(issued[0]).hex(), issued[0] + "x", issued[0][:-1]):
        check(decide(string) in ("REASON_TOKEN_NOT_FOUND", "REASON_TOKEN_MALFORMED"), "allowed:", string)
    held("they are found at both servers by their secrets alone; a digest is no token")

    bearer = Caller(channels[1], issued[0])
    equal(bearer.GetSelf(own.GetSelfRequest()).token.token_id, ids[0], "the bearer's own token")
    held("their bearers may ask what they are")

    # --- what is seen
    until(lambda: get(ids[0]).HasField("last_use_time"), "the use is recorded")
    until(lambda: [seen.address for seen in get(ids[0]).recent_addresses] == [ADDRESS], "its address is recorded")
    usage = tokens.GetTokenUsageRequest(token_id=ids[0])
    until(lambda: sum(day.count for day in operator.GetTokenUsage(usage).days) == 2 * 2, "the uses are counted")
    denials = operator.ListDenials(tokens.ListDenialsRequest(token_id=ids[0])).denials
    check(not denials, "nothing was denied, and this is listed:", denials)
    held("last use, address and count are shown")

    # --- replacement
    replaced = operator.ReplaceToken(
        tokens.ReplaceTokenRequest(token_id=ids[0], overlap=Duration(seconds=8))
    )
    equal(replaced.replaced_token.replaced_by_token_id, replaced.token.token_id, "the successor's id")
    equal(replaced.token.name, "legacy 0", "the successor's name")
    equal([decide(issued[0]), decide(replaced.secret)], ["REASON_ALLOWED"] * 2, "in the overlap")
    refused(CODE.FAILED_PRECONDITION, operator.ReplaceToken, tokens.ReplaceTokenRequest(token_id=ids[0]))
    until(lambda: decide(issued[0], dry_run=True) == "REASON_TOKEN_EXPIRED", "the replaced token ends")
    equal(decide(replaced.secret), "REASON_ALLOWED", "the successor")
    held("a replacement: both work in the overlap, then the successor alone")

    # --- expiry
    soon = Timestamp()
    soon.FromMilliseconds(int(time.time() * 1000) + 8_000)
    operator.SetTokenExpiry(tokens.SetTokenExpiryRequest(token_id=ids[1], expire_time=soon))
    equal(decide(issued[1]), "REASON_ALLOWED", "before the expiry")
    until(lambda: decide(issued[1], dry_run=True) == "REASON_TOKEN_EXPIRED", "the expiry binds")
    held("an expiry binds at both servers")

    # --- a leak
    reported = operator.ReportLeakedTokens(
        tokens.ReportLeakedTokensRequest(secrets=[replaced.secret], secret_sha256s=[digest(issued[2])])
    )
    equal(
        [tokens.LeakReportOutcome.Name(result.outcome) for result in reported.results],
        ["LEAK_REPORT_OUTCOME_REVOKED"] * 2,
        "the outcomes",
    )
    equal(
        [decide(replaced.secret), decide(issued[2])], ["REASON_TOKEN_REVOKED_LEAKED"] * 2, "the leaked tokens"
    )
    ended = tokens.ImportTokensRequest(account_id=account.account_id, tokens=[items[2]])
    equal(operator.ImportTokens(ended).results[0].WhichOneof("result"), "error", "an import of a leaked token")
    equal(decide(issued[3]), "REASON_ALLOWED", "another token")
    held("leaked tokens are denied at both servers when the report returns, and can't be imported again")

    revoked = Caller(channels[0], issued[3]).RevokeSelf(own.RevokeSelfRequest()).token
    equal(revoked.token_id, ids[3], "the revoked token")
    equal(decide(issued[3]), "REASON_TOKEN_DELETED", "a token that its bearer revoked")
    held("a bearer revokes its own")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Violation, grpc.RpcError) as error:
        print(f"VIOLATED  {error}", flush=True)
        raise
    print("the whole story held", flush=True)
