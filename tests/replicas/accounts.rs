//! Accounts that are suspended and closed beside replicas that have their tokens in memory.

use std::time::{Duration, Instant};

use portcullis::grpc::proto::{
    Account, CloseAccountRequest, ListAccountsRequest, Propagation, Reason, ResumeAccountRequest,
    Role, SuspendAccountRequest, TokenKind,
};
use tonic::{Code, Status};

use crate::replicas::stage::{LEASE, Stage};
use crate::support::calls::credential;
use crate::support::client::Client;
use crate::support::wait::until_async;

impl Stage {
    async fn suspend(&self, at: usize, no_wait: bool) -> (Account, Propagation) {
        let request = SuspendAccountRequest { account_id: self.account.clone(), no_wait };
        let answer = self.clients[at].accounts().suspend_account(request).await.unwrap();
        let answer = answer.into_inner();
        (answer.account.unwrap(), answer.propagation.unwrap())
    }

    async fn resume(&self, at: usize) -> Account {
        let request = ResumeAccountRequest { account_id: self.account.clone() };
        let answer = self.clients[at].accounts().resume_account(request).await.unwrap();
        answer.into_inner().account.unwrap()
    }

    async fn close(&self, at: usize) -> Result<i64, Status> {
        let request = CloseAccountRequest {
            account_id: self.account.clone(),
            confirm_name: "Test".to_owned(),
            ..Default::default()
        };
        let answer = self.clients[at].accounts().close_account(request).await?.into_inner();
        assert!(answer.propagation.unwrap().complete);
        Ok(answer.token_count)
    }

    async fn reason(&self, at: usize, secret: &str) -> Reason {
        self.ask(at, secret).await.unwrap().reason()
    }
}

/// Rules 6.3, 11.70 and 11.73.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_binds_everywhere_before_it_is_answered() {
    let lease = Duration::from_secs(30);
    let stage = Stage::leased(lease, 2, |_, setup| setup).await;
    let mut secrets = Vec::new();
    for at in 0..4 {
        secrets.push(stage.token(at % 2).await.1);
    }
    let other = stage.clients[0].account().await.account_id;
    let (_, bystander) = stage.clients[0].token(&other, TokenKind::ReadOnly, &[], &[]).await;
    for round in 0..10 {
        for (at, secret) in secrets.iter().enumerate() {
            stage.allows(at % 2, secret).await;
            stage.allows((at + 1) % 2, secret).await;
        }
        let began = Instant::now();
        let (_, propagation) = stage.suspend(round % 2, false).await;
        assert!(propagation.complete && began.elapsed() < lease / 6, "{:?}", began.elapsed());
        for secret in &secrets {
            for at in 0..2 {
                assert_eq!(stage.reason(at, secret).await, Reason::AccountSuspended);
                stage.allows(at, &bystander).await;
            }
        }
        stage.resume(round % 2).await;
        // Widening takes effect everywhere soon.
        until_async(
            async || {
                let mut allowed = true;
                for secret in &secrets {
                    for at in 0..2 {
                        allowed &= stage.reason(at, secret).await == Reason::Allowed;
                    }
                }
                allowed
            },
            |&allowed| allowed,
        )
        .await;
    }
}

/// Rules 6.3 to 6.8 and 11.70.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_outwaits_a_paused_replica_and_one_whose_store_is_gone() {
    let stage = Stage::new(2).await;
    let (_, secret) = stage.token(0).await;
    for at in 0..2 {
        stage.allows(at, &secret).await;
    }
    stage.servers[1].signal("STOP");
    let began = Instant::now();
    assert!(!stage.suspend(0, true).await.1.complete, "the other replica is paused");
    // A call that finds the account suspended waits just the same (rule 6.4).
    assert!(stage.suspend(0, false).await.1.complete);
    let waited = began.elapsed();
    assert!(waited > LEASE / 2 && waited < LEASE * 2, "{waited:?}");
    stage.servers[1].signal("CONT");
    stage.comes_back(1, &secret).await;
    assert_eq!(stage.reason(1, &secret).await, Reason::AccountSuspended);
    stage.resume(0).await;
    until_async(async || stage.reason(1, &secret).await, |&reason| reason == Reason::Allowed).await;

    // Cut off, it decides until its lease is over, and nothing after it.
    stage.cut(1, true);
    assert!(stage.suspend(0, false).await.1.complete);
    assert_eq!(stage.ask(1, &secret).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(stage.reason(0, &secret).await, Reason::AccountSuspended);
    stage.cut(1, false);
    stage.comes_back(1, &secret).await;
    assert_eq!(stage.reason(1, &secret).await, Reason::AccountSuspended);
}

/// Rules 11.74, 11.75, 11.76 and 11.77.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_binds_everywhere_before_it_is_answered_and_survives_kills() {
    let mut stage = Stage::with(2, |_, setup| setup.flag("--lifecycle-sweep-interval", "1s")).await;
    let mut secrets = Vec::new();
    // More than the call itself deletes.
    for _ in 0..230 {
        secrets.push(stage.token(0).await.1);
    }
    let (_, admin) = credential(&stage.clients[0], Role::AccountAdmin, &stage.account).await;
    for secret in [&secrets[0], &secrets[229]] {
        for at in 0..2 {
            stage.allows(at, secret).await;
        }
    }
    let counted = stage.close(0).await.unwrap();
    assert_eq!(counted, 230);
    for at in 0..2 {
        for secret in &secrets {
            stage.denies(at, secret).await;
        }
        let request = ListAccountsRequest::default();
        let listed = stage.clients[at].with(&admin).accounts().list_accounts(request).await;
        let refused = listed.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    // Where the replica that closes it is killed half-way, the other one goes on; after its restart it denies them too.
    stage.servers[0].kill9();
    stage.servers[0].restart();
    stage.clients[0] = Client::operator(&stage.servers[0]).await;
    until_async(
        async || stage.sql("SELECT close_done FROM account WHERE close_time IS NOT NULL"),
        |done| done == "1",
    )
    .await;
    for at in 0..2 {
        for secret in &secrets {
            stage.denies(at, secret).await;
        }
    }
    let deleted = stage.sql("SELECT count(*) FROM audit_event WHERE action = 'token.delete'");
    assert_eq!(deleted, "230", "each once");
    let live = stage.sql("SELECT count(*) FROM token WHERE delete_time IS NULL");
    assert_eq!(live, "0");
    assert_eq!(stage.close(1).await.unwrap(), 0, "closing it again changes nothing");
}

/// Rule 11.77. Creations, suspensions, resumptions and one closure at once, through both servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_token_outlives_a_closure_whatever_runs_beside_it() {
    let stage = Stage::with(2, |_, setup| setup.flag("--lifecycle-sweep-interval", "1s")).await;
    let creations = (0..16).map(async |at: usize| {
        let mut secrets = Vec::new();
        loop {
            let created = stage.clients[at % 2]
                .try_token(&stage.account, TokenKind::ReadOnly, &[], &[])
                .await;
            match created {
                Ok((_, secret)) => secrets.push(secret),
                Err(status) => {
                    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                    return secrets;
                }
            }
        }
    });
    let toggles = (0..4).map(async |at: usize| {
        loop {
            let account_id = stage.account.clone();
            let mut accounts = stage.clients[at % 2].accounts();
            let done = if at < 2 {
                let request = SuspendAccountRequest { account_id, no_wait: true };
                accounts.suspend_account(request).await.err()
            } else {
                accounts.resume_account(ResumeAccountRequest { account_id }).await.err()
            };
            if let Some(status) = done {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                return;
            }
        }
    });
    let closure = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.close(1).await.unwrap();
    };
    let (secrets, _, ()) = tokio::join!(
        futures_util::future::join_all(creations),
        futures_util::future::join_all(toggles),
        closure
    );
    let secrets = secrets.concat();
    assert!(!secrets.is_empty(), "nothing ran beside it");
    for secret in &secrets {
        for at in 0..2 {
            stage.denies(at, secret).await;
        }
    }
    until_async(
        async || stage.sql("SELECT close_done FROM account WHERE close_time IS NOT NULL"),
        |done| done == "1",
    )
    .await;
    assert_eq!(stage.sql("SELECT count(*) FROM token WHERE delete_time IS NULL"), "0");
    for secret in &secrets {
        stage.denies(0, secret).await;
    }
}
