//! Tokens: JWS in compact form, signed with a key that stays parsed.

use std::fmt;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;

use crate::authority::order::Refused;
use crate::authority::order::Token;
use crate::authority::order::TokenOrder;
use crate::authority::signing::life::Life;
use crate::identity::JwtAuthority;
use crate::identity::jose::Algorithm;
use crate::identity::jose::PublicKey;

/// Signs tokens with ES256.
pub(in crate::authority) struct JwtSigner {
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
    pub(in crate::authority) fn new(pair: EcdsaKeyPair, issuer: Option<String>, life: Life) -> Option<Self> {
        let authority = jwt_authority(&pair)?;
        let header = Header { alg: Algorithm::Es256.name(), kid: authority.key_id(), typ: "JWT" };
        let header = BASE64URL.encode(serde_json::to_vec(&header).ok()?) + ".";
        Some(Self { pair, header, issuer, life })
    }

    pub(in crate::authority) fn sign(&self, order: &TokenOrder) -> Result<Token, Refused> {
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

/// What verifies the tokens of a key, named by its thumbprint: two keys never share it.
pub(in crate::authority) fn jwt_authority(pair: &EcdsaKeyPair) -> Option<JwtAuthority> {
    let key = PublicKey::from_spki(pair.public_key().as_der().ok()?.as_ref()).ok()?;
    JwtAuthority::named_by_thumbprint(key, Algorithm::Es256).ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
