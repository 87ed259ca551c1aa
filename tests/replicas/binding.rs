//! What a change waits for, told by the servers themselves.

use std::time::{Duration, Instant};

use portcullis::grpc::proto::{
    Decision, GetCatalogRequest, ManageWhitelistRequest, Reason, RevokeCredentialRequest, Role,
    RotateSecretKeyRequest, StreamAuthorizeRequest, TokenKind, stream_authorize_response,
};
use sqlx::{Connection as _, PgConnection};
use tonic::Code;

use crate::replicas::proxy::{Proxy, Wire};
use crate::replicas::stage::{LEASE, PATIENCE, PROMPT, Stage, until};
use crate::support::calls::credential;
use crate::support::client::question;
use crate::support::postgres;
use crate::support::server::Setup;

/// Rule 6.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_binds_everywhere_before_it_is_answered() {
    // So long that a change that waits for it to end is told from one that the machine slows down.
    let lease = Duration::from_secs(30);
    let stage = Stage::leased(lease, 3, |_, setup| setup).await;
    for round in 0..20 {
        let (token, secret) = stage.token(round % 3).await;
        for at in 0..3 {
            stage.allows(at, &secret).await;
        }
        let took = stage.deletes(round % 3, &token.token_id).await;
        assert!(took < lease / 6, "it waited for a renewal, or longer: {took:?}");
        for at in 0..3 {
            stage.denies(at, &secret).await;
        }
    }
    assert_eq!(stage.servers[1].metric("portcullis_replicas"), Some(3));
}

/// Rules 6.3, 6.4, 6.5 and 6.11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_is_outwaited_and_renews_before_it_answers() {
    let stage = Stage::new(2).await;
    let (token, secret) = stage.token(0).await;
    // Asked before, on a stream that stays open.
    let (send, asked) = tokio::sync::mpsc::channel(1);
    let ask = StreamAuthorizeRequest {
        request: Some(question(&secret, "192.0.2.1", "transactions.read")),
    };
    send.send(ask.clone()).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers =
        stage.clients[1].authorization().stream_authorize(asked).await.unwrap().into_inner();
    let mut next = async || match answers.message().await.unwrap().unwrap().result.unwrap() {
        stream_authorize_response::Result::Response(answer) => answer,
        other => panic!("{other:?}"),
    };
    assert_eq!(next().await.decision(), Decision::Allow);

    stage.servers[1].signal("STOP");
    let began = Instant::now();
    let early = stage.delete(0, &token.token_id, true).await.unwrap().propagation.unwrap();
    assert!(!early.complete, "nobody has heard of it: {early:?}");
    // Found made already, it waits just the same.
    assert!(stage.delete(0, &token.token_id, false).await.unwrap().propagation.unwrap().complete);
    let waited = began.elapsed();
    assert!(waited > LEASE / 2 && waited < LEASE * 2, "{waited:?}");
    stage.denies(0, &secret).await;
    stage.servers[1].signal("CONT");
    send.send(ask).await.unwrap();
    stage.denies(1, &secret).await;
    assert_eq!(next().await.reason(), Reason::TokenDeleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_is_outwaited_and_whoever_leaves_is_not() {
    let mut stage = Stage::new(3).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(stage.token(0).await.0.token_id);
    }
    assert!(stage.servers[1].terminate().success());
    let took = stage.deletes(0, &tokens[0]).await;
    assert!(took < PROMPT, "{took:?}");
    let killed = format!("{}, process {}", stage.servers[2].grpc(), stage.servers[2].pid());
    stage.servers[2].kill9();
    let took = stage.deletes(0, &tokens[1]).await;
    assert!(took > LEASE / 2 && took < LEASE * 2, "{took:?}");
    let took = stage.deletes(0, &tokens[2]).await;
    assert!(took < PROMPT, "once is enough: {took:?}");
    stage.servers[2].restart();
    // Operators are told for whom they wait while they do, and when that is over.
    let log = stage.servers[0].log();
    for told in ["changes wait for replicas", "a replica's lease ran out"] {
        let line = log.lines().find(|line| line.contains(told));
        assert!(line.is_some_and(|line| line.contains(&killed)), "{told} {killed}:\n{log}");
    }
}

/// Rules 6.7 and 6.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_cut_off_decides_until_its_lease_ends_and_then_not_at_all() {
    let stage = Stage::new(2).await;
    let (token, secret) = stage.token(0).await;
    for held in [false, true] {
        // What is bound was applied there: nothing is still to come that would take the token out of memory.
        let (other, _) = stage.token(0).await;
        stage.deletes(0, &other.token_id).await;
        stage.allows(1, &secret).await;
        stage.wires[1].set(Wire { cut: !held, held, ..Wire::default() });
        let cut = Instant::now();
        stage.allows(1, &secret).await;
        let status = loop {
            match stage.ask(1, &secret).await {
                Ok(answer) => assert_eq!(answer.decision(), Decision::Allow),
                Err(status) => break status,
            }
            assert!(cut.elapsed() < LEASE + PROMPT, "it goes on deciding");
        };
        assert!(cut.elapsed() > LEASE / 2, "{:?}", cut.elapsed());
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("longer than its lease"), "{status:?}");
        // Credentials may be out of date as well.
        let known = stage.clients[1].catalog().get_catalog(GetCatalogRequest {}).await;
        assert_eq!(known.unwrap_err().code(), Code::Unavailable);
        let (status, why) = stage.servers[1].get("/readyz");
        assert!(status.contains("503") && why.contains("the lease has run out"), "{status} {why}");
        assert!(stage.servers[1].get("/healthz").1.contains("lease: run out"));
        if held {
            stage.deletes(0, &token.token_id).await;
            assert_eq!(stage.ask(1, &secret).await.unwrap_err().code(), Code::Unavailable);
        }
        stage.cut(1, false);
        let took = stage.comes_back(1, &secret).await;
        assert!(took < 2 * PROMPT, "{took:?}");
    }
    stage.denies(1, &secret).await;
    assert_eq!(stage.servers[1].metric("portcullis_lease_lapses_total"), Some(2));
}

/// Deletes tokens that the other server has in memory: bound with its next renewal at the latest.
async fn deletions_bind(stage: &Stage, count: usize) {
    for _ in 0..count {
        let (token, secret) = stage.token(0).await;
        stage.allows(1, &secret).await;
        let took = stage.deletes(0, &token.token_id).await;
        assert!(took < LEASE / 3 + PROMPT, "{took:?}");
        stage.denies(1, &secret).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_notifications_cost_time_only() {
    let stage = Stage::new(2).await;
    stage.wires[1].set(Wire { mute: true, ..Wire::default() });
    deletions_bind(&stage, 3).await;
}

/// Whoever may connect to the database can tell what is not so: here every change is told of as one that
/// touched nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrue_notifications_cost_time_only() {
    let stage = Stage::new(2).await;
    let untrue = "CREATE OR REPLACE FUNCTION portcullis_tell_of_change() RETURNS trigger \
        LANGUAGE plpgsql AS $$ BEGIN \
        PERFORM pg_notify('portcullis_change', concat_ws(' ', NEW.position, NEW.nonce, 'nothing')); \
        RETURN NULL; END $$";
    stage.sql(untrue);
    deletions_bind(&stage, 10).await;
}

/// Nor can anybody have what is always kept read anew, and so lost while that can't be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_always_kept_is_not_forgotten_for_a_notification() {
    let stage = Stage::new(2).await;
    let (_, secret) = stage.token(0).await;
    stage.allows(1, &secret).await;
    for table in ["catalog", "credential"] {
        stage.sql(&format!("ALTER TABLE {table} RENAME TO hidden"));
        let key = if table == "credential" {
            "(SELECT credential_id FROM hidden LIMIT 1)"
        } else {
            "NULL"
        };
        let told = format!(
            "SELECT pg_notify('portcullis_change', concat_ws(' ', \
             (SELECT position + 1 FROM head), gen_random_uuid(), '{table}', {key}))"
        );
        for _ in 0..10 {
            stage.sql(&told);
            tokio::time::sleep(Duration::from_millis(50)).await;
            stage.allows(1, &secret).await;
        }
        stage.sql(&format!("ALTER TABLE hidden RENAME TO {table}"));
    }
    deletions_bind(&stage, 1).await;
}

/// Nor is a deletion bound because somebody told of it before it was made: what the replica forgot then, it may
/// have read again since, as it was before the deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_before_it_is_made_binds_nothing() {
    let stage = Stage::new(2).await;
    for _ in 0..5 {
        let (token, secret) = stage.token(0).await;
        stage.allows(1, &secret).await;
        let acknowledged_late = Duration::from_millis(300);
        stage.wires[1].set(Wire { acknowledged_late, ..Wire::default() });
        let told = "SELECT pg_notify('portcullis_change', concat_ws(' ', \
            (SELECT position + 1 FROM head), gen_random_uuid(), 'token', \
            (SELECT token_id FROM token ORDER BY create_time DESC, token_id DESC LIMIT 1)))";
        let misses = || stage.servers[1].metric("portcullis_cache_misses_total").unwrap();
        let (before, began) = (misses(), Instant::now());
        // It forgets, and reads again.
        while misses() == before {
            stage.sql(told);
            stage.allows(1, &secret).await;
            assert!(began.elapsed() < PATIENCE, "nothing was forgotten");
        }
        stage.deletes(0, &token.token_id).await;
        stage.denies(1, &secret).await;
        stage.wires[1].set(Wire::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_credential_opens_nothing_anywhere() {
    let stage = Stage::new(2).await;
    let (_, steady) = stage.token(0).await;
    for round in 0..5 {
        let (made, secret) = credential(&stage.clients[0], Role::Pep, "").await;
        // Usable everywhere when it is answered.
        let bearer = stage.clients[1].with(&secret);
        let ask = || question(&steady, "192.0.2.1", "transactions.read");
        bearer.authorization().authorize(ask()).await.unwrap();
        let revoke = RevokeCredentialRequest { credential_id: made.credential_id, no_wait: false };
        stage.clients[round % 2].credentials().revoke_credential(revoke).await.unwrap();
        let refused = bearer.authorization().authorize(ask()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

/// One that is paused for so long that others cleared its row away keeps what it has in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_back_reads_what_it_missed_and_no_more() {
    let stage = Stage::new(2).await;
    let (_, kept) = stage.token(0).await;
    let (gone, gone_secret) = stage.token(0).await;
    stage.allows(1, &kept).await;
    stage.allows(1, &gone_secret).await;
    let misses = || stage.servers[1].metric("portcullis_cache_misses_total").unwrap();
    let before = misses();
    stage.servers[1].signal("STOP");
    stage.deletes(0, &gone.token_id).await;
    let seen = || stage.servers[0].metric("portcullis_replicas");
    until(seen, |replicas| *replicas == Some(1)).await;
    stage.servers[1].signal("CONT");
    stage.denies(1, &gone_secret).await;
    stage.allows(1, &kept).await;
    assert_eq!(misses(), before + 1);
    let log = stage.servers[1].log();
    assert!(log.contains("registering again"), "{log}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    until(seen, |replicas| *replicas == Some(2)).await;
}

/// Without its limits a session that is gone without a word would hold the head row for hours, and where
/// several share one, nobody knows which of them keeps its commits.
#[test]
fn a_pooler_that_drops_settings_is_refused() {
    let cluster = postgres::shared();
    let proxy = Proxy::new(cluster.port());
    let url = proxy.url(&cluster.database());
    proxy.set(Wire { unset: true, ..Wire::default() });
    let (status, told) = Setup::postgres(&url).refused();
    assert!(!status.success() && told.contains("a pooler that drops settings"), "{told}");
    proxy.set(Wire::default());
    Setup::postgres(&url).start();
}

/// Each renewal is a commit, so there are to be no more than it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_replica_renews_three_times_in_a_lease() {
    let stage = Stage::new(1).await;
    let renewals = || stage.sql("SELECT renewals FROM replica").parse::<u32>().unwrap();
    let before = renewals();
    tokio::time::sleep(3 * LEASE).await;
    let made = renewals() - before;
    assert!((3..=12).contains(&made), "{made} renewals in three leases");
}

/// A question that waits for the store while its token is deleted elsewhere is answered on what is so then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_change_is_read_again() {
    let stage = Stage::new(2).await;
    let (token, secret) = stage.token(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut database = PgConnection::connect(&stage.url).await.unwrap();
    // Each reading takes a second, and shows what was so at its beginning.
    for statement in [
        "ALTER TABLE token RENAME TO kept",
        "CREATE VIEW token AS SELECT kept.* FROM kept, pg_sleep(1)",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    let delete = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let mut change = database.begin().await.unwrap();
        for statement in [
            "UPDATE kept SET delete_time = 1, delete_cause = 'owner'",
            "UPDATE head SET position = position + 1",
            "INSERT INTO change (position, time, touched, key) \
             SELECT position, 1, 'token', (SELECT token_id FROM kept) FROM head",
        ] {
            sqlx::query(statement).execute(&mut *change).await.unwrap();
        }
        change.commit().await.unwrap();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(stage.ask(0, &secret), delete);
    let answer = answer.unwrap();
    assert_eq!(
        answer.reason(),
        Reason::TokenDeleted,
        "{} in {:?}",
        token.token_id,
        began.elapsed()
    );
}

/// A removal that was made and not waited for is refused when it is asked for again, but only once it binds.
/// Rule 6.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_made_already_is_waited_for() {
    let stage = Stage::new(2).await;
    let whitelist = ["192.0.2.0/24", "198.51.100.7"];
    let client = &stage.clients[0];
    let (token, secret) = client.token(&stage.account, TokenKind::ReadOnly, &[], &whitelist).await;
    stage.allows(1, &secret).await;
    let remove = |no_wait| ManageWhitelistRequest {
        token_id: token.token_id.clone(),
        remove: vec![whitelist[0].to_owned()],
        no_wait,
        ..Default::default()
    };
    stage.servers[1].signal("STOP");
    let began = Instant::now();
    let early = client.tokens().manage_whitelist(remove(true)).await.unwrap().into_inner();
    assert!(!early.propagation.unwrap().complete);
    let refused = client.tokens().manage_whitelist(remove(false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(began.elapsed() > LEASE / 2, "{:?}", began.elapsed());
    stage.servers[1].signal("CONT");
    let answer = stage.ask(1, &secret).await.unwrap();
    assert_eq!(answer.reason(), Reason::ClientIpNotWhitelisted);
}

/// What is asked on a stream after the server began to stop is never answered, and its end says so.
/// Rule 6.11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_a_stop_ends_is_not_taken_for_finished() {
    let mut stage = Stage::new(1).await;
    let (_, secret) = stage.token(0).await;
    let (send, asked) = tokio::sync::mpsc::channel(1);
    let ask = StreamAuthorizeRequest {
        request: Some(question(&secret, "192.0.2.1", "transactions.read")),
    };
    send.send(ask).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers =
        stage.clients[0].authorization().stream_authorize(asked).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    assert!(stage.servers[0].terminate().success());
    let ended = answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("this replica is stopping"), "{ended:?}");
}

/// A replica that does not know a key takes what is made under it for forged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_known_everywhere_when_it_is_answered() {
    let stage = Stage::new(2).await;
    stage.servers[1].signal("STOP");
    let began = Instant::now();
    let rotate = RotateSecretKeyRequest {};
    stage.clients[0].credentials().rotate_secret_key(rotate).await.unwrap();
    assert!(began.elapsed() > LEASE / 2, "{:?}", began.elapsed());
    stage.servers[1].signal("CONT");
    let (_, secret) = stage.token(0).await;
    stage.allows(1, &secret).await;
}

/// A start with another operator credential revokes the former one: whoever sees it ready may rely on that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_operator_credential_opens_nothing_once_the_server_is_ready() {
    let stage = Stage::new(2).await;
    stage.clients[1].catalog().get_catalog(GetCatalogRequest {}).await.unwrap();
    stage.servers[1].signal("STOP");
    let began = Instant::now();
    let lease = format!("{}ms", LEASE.as_millis());
    let _other = Setup::postgres(&stage.url).flag("--lease", &lease).start();
    assert!(began.elapsed() > LEASE / 2, "{:?}", began.elapsed());
    stage.servers[1].signal("CONT");
    let refused = stage.clients[1].catalog().get_catalog(GetCatalogRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
}

/// The process ends in good time, and whoever waits hears what became of the change. Rule 6.6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_those_who_wait_that_their_change_is_made() {
    let mut stage = Stage::leased(Duration::from_secs(60), 2, |_, setup| setup).await;
    let (token, _) = stage.token(0).await;
    stage.servers[1].signal("STOP");
    let (told, ()) = tokio::join!(stage.delete(0, &token.token_id, false), async {
        tokio::time::sleep(PROMPT).await;
        stage.servers[0].signal("TERM");
    });
    let told = told.unwrap_err();
    assert_eq!(told.code(), Code::DeadlineExceeded, "{told:?}");
    assert!(told.message().contains("the change is made and stays"), "{told:?}");
    assert!(stage.servers[0].wait_end().success());
}
