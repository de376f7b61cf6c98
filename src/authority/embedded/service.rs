//! What the embedded authority answers to those who have SVIDs signed, to the operator, and to who keeps its keys current.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use futures_util::future::FutureExt;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::authority::Maintained;
use crate::authority::Served;
use crate::authority::SignerLocation;
use crate::authority::embedded::Embedded;
use crate::authority::keys::KeyId;
use crate::authority::keys::KeyKind;
use crate::authority::keys::KeyStatus;
use crate::authority::keys::NotRotated;
use crate::authority::keys::RotationBegun;
use crate::authority::keys::RotationOrder;
use crate::authority::keys::Stage;
use crate::authority::no_authority::NoAuthority;
use crate::authority::no_authority::Note;
use crate::authority::order::Chain;
use crate::authority::order::Order;
use crate::authority::order::Refused;
use crate::authority::order::Token;
use crate::authority::order::TokenOrder;
use crate::authority::signing::life::Validity;
use crate::identity::Bundle;
use crate::time::Moment;

impl Authority for Embedded {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn x509(&self, orders: Vec<Order>) -> BoxFuture<'_, Vec<Result<Chain, Refused>>> {
        async move {
            let mut answers = Vec::with_capacity(orders.len());
            for order in &orders {
                answers.push(self.certify(order).await);
            }
            answers
        }
        .boxed()
    }

    fn jwt(&self, order: TokenOrder) -> BoxFuture<'_, Result<Token, Refused>> {
        async move {
            loop {
                let key = self.jwt.load_full().ok_or_else(no_keys)?;
                let token = key.signer.sign(&order).await?;
                // RACE: where the next key was used meanwhile it signs, too: this one may be tainted, and out of the bundle.
                if self.jwt.load().as_ref().is_some_and(|active| Arc::ptr_eq(active, &key)) {
                    key.usage.signed(order.issued, token.not_after, token.clamped);
                    key.usage.signed_token(order.issued, token.not_after);
                    return Ok(token);
                }
            }
        }
        .boxed()
    }

    fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    fn location(&self) -> SignerLocation {
        SignerLocation::Local
    }

    fn keys(&self, now: SystemTime) -> Vec<KeyStatus> {
        let mut keys = Vec::clone(&self.statuses.load());
        let tokens = self.tokens.load();
        for key in &mut keys {
            let usage = tokens.iter().find(|(id, _)| *id == key.id);
            key.tokens = usage.map_or(0, |(_, usage)| usage.tokens_at(now));
        }
        keys
    }

    fn tainted(&self) -> Arc<Vec<KeyId>> {
        self.tainted.load_full()
    }

    fn not_after(&self) -> Option<SystemTime> {
        self.x509.load().as_ref().map(|key| key.life.not_after)
    }

    fn validity(&self, now: SystemTime) -> Option<Validity> {
        self.validities(now).into_iter().map(|(_, validity)| validity).reduce(Validity::worse)
    }

    fn validities(&self, now: SystemTime) -> Vec<(KeyKind, Validity)> {
        let x509 = self.x509.load_full().map(|key| (KeyKind::X509, key.validity(now)));
        let jwt = self.jwt.load_full().map(|key| (KeyKind::Jwt, key.validity(now)));
        x509.into_iter().chain(jwt).collect()
    }

    fn remedy(&self) -> String {
        "Make new keys now: bonafide authority rotate. Give the new bundle to everybody who verifies SVIDs of this node \
         elsewhere; a workload can get it: bonafide fetch bundle --write DIR"
            .to_owned()
    }

    fn set_key_life(&self, ca_ttl: Duration) {
        *self.ca_ttl.lock().unwrap_or_else(PoisonError::into_inner) = ca_ttl;
    }

    fn rotate(&self, order: RotationOrder, now: Moment) -> Result<RotationBegun, NotRotated> {
        let mut keeper = self.keeper();
        let keeper = keeper.as_mut().ok_or_else(|| NotRotated::NotMade(NoAuthority::ClockBeforeRelease.to_string()))?;
        let made = keeper.made();
        keeper.rotate(order, now, |kind| self.make_key(kind, made, now))?;
        self.show(keeper);
        let ordered = |key: &KeyStatus| order.kinds().any(|kind| kind == key.kind);
        let (published, others): (Vec<_>, Vec<_>) =
            self.keys(now.wall).into_iter().filter(ordered).partition(|key| key.stage == Stage::Published);
        Ok(RotationBegun { published, tainted: others.into_iter().filter(|key| key.tainted).collect() })
    }

    fn is_due(&self, now: Moment, served: Served) -> bool {
        let keeper = match self.keeper.try_lock() {
            Ok(keeper) => keeper,
            Err(TryLockError::Poisoned(keeper)) => keeper.into_inner(),
            Err(TryLockError::WouldBlock) => return true,
        };
        keeper.as_ref().is_none_or(|keeper| keeper.is_due(now, served))
    }

    fn maintain(&self, now: Moment, served: Served) -> Result<Maintained, NoAuthority> {
        let mut guard = self.keeper();
        let Some(keeper) = guard.as_mut() else {
            // RACE: under the lock, for a second maker would leave other keys on the disk than those that sign.
            let (keeper, note) = self.make_first_keys(now)?;
            *guard = Some(keeper);
            return Ok(Maintained { notes: vec![note], ..Maintained::default() });
        };
        keeper.begin_leads(now, served);
        let mut notes: Vec<_> = keeper.depart(now, served).into_iter().map(|id| Note::Left { id }).collect();
        let may_try = keeper.may_try(now);
        if may_try {
            let mut tried = keeper.settle(now);
            while tried.is_ok()
                && let Some(due) = keeper.due(now, served)
            {
                tried = self.take_step(keeper, due, now).map(|done| notes.extend(done));
            }
            keeper.tried(tried, now);
        }
        self.show(keeper);
        let postponed = keeper.postponed();
        Ok(Maintained { notes, failed: may_try && postponed.is_some(), postponed })
    }
}

fn no_keys() -> Refused {
    Refused::Unavailable("it has no keys yet".to_owned())
}

impl Embedded {
    async fn certify(&self, order: &Order) -> Result<Chain, Refused> {
        let key = self.x509.load_full().ok_or_else(no_keys)?;
        let chain = key.signer.sign(order).await?;
        key.usage.signed(order.issued, chain.not_after, chain.clamped);
        Ok(chain)
    }
}
