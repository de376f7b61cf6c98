//! Tokens: JWS in compact form, signed with a key that stays parsed.

use std::fmt;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::digest::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;

use crate::authority::Refused;
use crate::authority::Token;
use crate::authority::TokenOrder;
use crate::authority::embedded::life::Life;

/// Signs tokens with ES256.
pub(super) struct JwtSigner {
    pair: EcdsaKeyPair,
    /// The encoded header and its dot: the same for every token of a key.
    header: String,
    issuer: Option<String>,
    life: Life,
}

/// SPEC: JWT-SVID §2: these three and no other.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

/// SPEC: JWT-SVID §3; RFC 7519 §4.1.
#[derive(Serialize)]
struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    sub: &'a str,
    aud: &'a [String],
    iat: u64,
    exp: u64,
    jti: &'a str,
}

impl JwtSigner {
    /// Takes up a key that was made for fixed-width ECDSA signatures (SPEC: RFC 7518 §3.4).
    pub(super) fn new(pair: EcdsaKeyPair, issuer: Option<String>, life: Life) -> Option<Self> {
        let key_id = key_id(&pair)?;
        let header = Header { alg: "ES256", kid: &key_id, typ: "JWT" };
        let header = BASE64URL.encode(serde_json::to_vec(&header).ok()?) + ".";
        Some(Self { pair, header, issuer, life })
    }

    pub(super) fn sign(&self, order: &TokenOrder) -> Result<Token, Refused> {
        let (not_after, clamped) = self.life.clamp(order.issued, order.not_after)?;
        if order.audiences.is_empty() {
            return Err(Refused::BugLint("a token without an audience".to_owned()));
        }
        let claims = Claims {
            iss: self.issuer.as_deref(),
            sub: order.id.as_str(),
            aud: &order.audiences,
            iat: seconds(order.issued),
            exp: seconds(not_after),
            jti: &order.token_id,
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| Refused::BugLint("claims that are no JSON".to_owned()))?;
        let mut compact = self.header.clone();
        BASE64URL.encode_string(claims, &mut compact);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), compact.as_bytes())
            .map_err(|_| Refused::Unavailable("the crypto library drew no signature".to_owned()))?;
        compact.push('.');
        BASE64URL.encode_string(signature, &mut compact);
        Ok(Token { compact, not_after, clamped })
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner").field("life", &self.life).finish_non_exhaustive()
    }
}

/// The thumbprint of a P-256 key (SPEC: RFC 7638 §3): two keys never share it.
pub(super) fn key_id(pair: &EcdsaKeyPair) -> Option<String> {
    let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
    let (x, y) = (BASE64URL.encode(x), BASE64URL.encode(y));
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Some(BASE64URL.encode(digest(&SHA256, members.as_bytes())))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
