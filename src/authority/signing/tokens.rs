//! Tokens: JWS in compact form.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;

use crate::authority::order::Refused;
use crate::authority::order::Token;
use crate::authority::order::TokenOrder;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::Life;
use crate::authority::signing::life::seconds;
use crate::identity::JwtAuthority;
use crate::identity::jose::Algorithm;
use crate::identity::jose::PublicKey;

/// Signs tokens with ES256.
pub(in crate::authority) struct JwtSigner {
    key: Arc<dyn SigningKey>,
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
    /// Takes up a key whose signatures are of fixed width (SPEC: RFC 7518 §3.4).
    pub(in crate::authority) fn new(key: Arc<dyn SigningKey>, issuer: Option<String>, life: Life) -> Option<Self> {
        let authority = jwt_authority(key.public_key())?;
        let header = Header { alg: Algorithm::Es256.name(), kid: authority.key_id(), typ: "JWT" };
        let header = BASE64URL.encode(serde_json::to_vec(&header).ok()?) + ".";
        Some(Self { key, header, issuer, life })
    }

    /// Signs the token of an order.
    ///
    /// # Errors
    /// [`Refused`]; nothing was signed, or nothing that anybody has seen.
    pub(in crate::authority) async fn sign(&self, order: &TokenOrder) -> Result<Token, Refused> {
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
        let signature = SignatureForm::FixedWidth.check(self.key.sign(compact.as_bytes()).await?)?;
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

/// What verifies the tokens of the key with this SubjectPublicKeyInfo, named by its thumbprint: two keys never share it.
pub(in crate::authority) fn jwt_authority(public_key: &[u8]) -> Option<JwtAuthority> {
    let key = PublicKey::from_spki(public_key).ok()?;
    JwtAuthority::named_by_thumbprint(key, Algorithm::Es256).ok()
}
