//! Those who create, narrow, widen and delete: each object has one of them, so its changes follow each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::grpc::proto::{
    ApplyCatalogRequest, CreateCredentialRequest, DeleteTokenRequest, ManageWhitelistRequest,
    RevokeCredentialRequest, RevokeCredentialResponse, Role, TokenKind, WhitelistReplacement,
};
use tonic::Status;

use super::{CALL, ELSEWHERE, HERE, LEASE, Object, TOKENS, World, limited, lock, toml};
use crate::lease::random::Random;
use crate::replicas::history::{Change, ObjectId, Seen};
use crate::support::client::Client;

impl World {
    /// Creates tokens, changes where they may be used from, and deletes them.
    pub(super) async fn control_tokens(self: Arc<Self>, mut random: Random) {
        let mut tokens: Vec<(ObjectId, String, bool)> = Vec::new();
        while self.goes_on() {
            tokio::time::sleep(Duration::from_millis(random.below(60))).await;
            let client = self.some_server(&mut random);
            if tokens.len() < TOKENS {
                let begin = Instant::now();
                let whitelist = [HERE, ELSEWHERE];
                let create = client.try_token(&self.account, TokenKind::ReadOnly, &[], &whitelist);
                if let Ok(Ok((token, secret))) = tokio::time::timeout(CALL, create).await {
                    tokens.push((self.publish(Object::Token(secret), begin), token.token_id, true));
                }
                continue;
            }
            let at = random.below(tokens.len() as u64) as usize;
            let (object, token_id, here) = tokens[at].clone();
            let no_wait = random.in_1000(150);
            let delete = random.in_1000(250);
            let known = if delete {
                self.delete(&client, object, &token_id, no_wait).await
            } else {
                self.toggle(&client, object, &token_id, !here, no_wait).await
            };
            // Found made already, a change is waited for just the same.
            let known = match known {
                Some(false) => {
                    let client = self.some_server(&mut random);
                    if delete {
                        self.delete(&client, object, &token_id, false).await
                    } else {
                        self.replace(&client, object, &token_id, !here).await
                    }
                }
                known => known,
            };
            tokens[at].2 = !here;
            if delete || known != Some(true) {
                // For a while it is asked about still.
                let (this, object) = (self.clone(), tokens.swap_remove(at).0);
                tokio::spawn(async move {
                    tokio::time::sleep(3 * LEASE).await;
                    this.retire(object);
                });
            }
        }
    }

    async fn delete(
        &self,
        client: &Client,
        object: ObjectId,
        token_id: &str,
        no_wait: bool,
    ) -> Option<bool> {
        let request = DeleteTokenRequest { token_id: token_id.to_owned(), no_wait };
        let mut tokens = client.tokens();
        let call = async { Ok(tokens.delete_token(limited(request, CALL)).await?.into_inner()) };
        self.change(object, Seen::Deleted, call, |deleted| deleted.propagation.unwrap().complete)
            .await
    }

    async fn toggle(
        &self,
        client: &Client,
        object: ObjectId,
        token_id: &str,
        here: bool,
        no_wait: bool,
    ) -> Option<bool> {
        let entries = vec![HERE.to_owned()];
        let (add, remove) = if here { (entries, vec![]) } else { (vec![], entries) };
        let request = ManageWhitelistRequest {
            token_id: token_id.to_owned(),
            add,
            remove,
            no_wait,
            ..Default::default()
        };
        self.manage(client, object, request, here).await
    }

    async fn replace(
        &self,
        client: &Client,
        object: ObjectId,
        token_id: &str,
        here: bool,
    ) -> Option<bool> {
        let entries = if here { &[HERE, ELSEWHERE][..] } else { &[ELSEWHERE] };
        let entries = entries.iter().map(|&entry| entry.to_owned()).collect();
        let request = ManageWhitelistRequest {
            token_id: token_id.to_owned(),
            replace: Some(WhitelistReplacement { entries, ..Default::default() }),
            ..Default::default()
        };
        self.manage(client, object, request, here).await
    }

    async fn manage(
        &self,
        client: &Client,
        object: ObjectId,
        request: ManageWhitelistRequest,
        here: bool,
    ) -> Option<bool> {
        let leads_to = if here { Seen::Allowed } else { Seen::NotWhitelisted };
        let mut tokens = client.tokens();
        let call =
            async { Ok(tokens.manage_whitelist(limited(request, CALL)).await?.into_inner()) };
        self.change(object, leads_to, call, |managed| managed.propagation.unwrap().complete).await
    }

    /// Creates credentials and revokes them.
    pub(super) async fn control_credentials(self: Arc<Self>, mut random: Random) {
        while self.goes_on() {
            let client = self.some_server(&mut random);
            let begin = Instant::now();
            let created = tokio::time::timeout(CALL, try_credential(&client)).await;
            let Ok(Ok((id, secret))) = created else { continue };
            let object = self.publish(Object::Credential(secret), begin);
            // That it is known everywhere is nobody's promise.
            lock(&self.history).changes.push(Change {
                object,
                begin,
                bound: None,
                leads_to: Seen::Unauthenticated,
            });
            tokio::time::sleep(Duration::from_millis(200 + random.below(500))).await;
            let client = self.some_server(&mut random);
            let request = RevokeCredentialRequest { credential_id: id, no_wait: false };
            let mut credentials = client.credentials();
            let call = async {
                Ok(credentials.revoke_credential(limited(request, CALL)).await?.into_inner())
            };
            let bound = |revoked: &RevokeCredentialResponse| revoked.propagation.unwrap().complete;
            self.change(object, Seen::Unauthenticated, call, bound).await;
            tokio::time::sleep(LEASE / 2).await;
            self.retire(object);
        }
    }

    /// Takes a route off the catalogue and puts it back.
    pub(super) async fn control_catalog(self: Arc<Self>, mut random: Random) {
        let object = self.publish(Object::Route, Instant::now());
        let mut there = true;
        while self.goes_on() {
            tokio::time::sleep(Duration::from_millis(200 + random.below(600))).await;
            let client = self.some_server(&mut random);
            let request = ApplyCatalogRequest {
                toml: toml(!there),
                confirm_narrowing: true,
                ..Default::default()
            };
            let leads_to = if there { Seen::NoRoute } else { Seen::Allowed };
            let mut catalog = client.catalog();
            let call =
                async { Ok(catalog.apply_catalog(limited(request, CALL)).await?.into_inner()) };
            let known = self
                .change(object, leads_to, call, |applied| applied.propagation.unwrap().complete);
            if known.await == Some(true) {
                there = !there;
            }
            // Else the same is asked for again, until it is known: whatever comes late changes nothing
            // then.
        }
    }
}

async fn try_credential(client: &Client) -> Result<(String, String), Status> {
    let request = CreateCredentialRequest { role: Role::Pep.into(), ..Default::default() };
    let created = client.credentials().create_credential(request).await?.into_inner();
    Ok((created.credential.unwrap().credential_id, created.secret))
}
