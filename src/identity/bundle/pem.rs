//! A bundle as a PEM file of root certificates: no keys for tokens, no sequence.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::pem::SectionKind;

use crate::identity::bundle::Because;
use crate::identity::bundle::Bundle;
use crate::identity::bundle::Element;
use crate::identity::bundle::Ignored;
use crate::identity::bundle::MAX_BUNDLE;
use crate::identity::bundle::MAX_KEYS;
use crate::identity::bundle::NotABundle;
use crate::identity::bundle::root::Root;
use crate::identity::jose::InvalidJson;
use crate::identity::trust_domain::TrustDomain;

/// One section of a PEM file.
struct Section(SectionKind, Vec<u8>);

impl PemObject for Section {
    fn from_pem(kind: SectionKind, der: Vec<u8>) -> Option<Self> {
        Some(Self(kind, der))
    }
}

/// Reads the certificates of a PEM file as the bundle of `trust_domain`. Unlike `"keys": []` in a SPIFFE bundle, a file
/// without certificates is refused: it does not mean that no SVID verifies any more.
pub(super) fn read(trust_domain: TrustDomain, bytes: &[u8]) -> Result<(Bundle, Vec<Ignored>), NotABundle> {
    if bytes.len() > MAX_BUNDLE {
        return Err(NotABundle::Json(InvalidJson::TooLarge { limit: MAX_BUNDLE }));
    }
    let mut bundle = Bundle::empty(trust_domain);
    let mut ignored = Vec::new();
    for (index, section) in Section::pem_slice_iter(bytes).enumerate() {
        let Section(kind, der) = section.map_err(|_| NotABundle::Pem)?;
        if index >= MAX_KEYS {
            return Err(NotABundle::TooManyKeys { keys: index + 1 });
        }
        let root = match kind {
            SectionKind::Certificate => Root::read(&der).map(drop).map_err(Because::Root),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Err(Because::PrivateKeyInFile)
            }
            _ => Err(Because::NotACertificate),
        };
        match root {
            Ok(()) if bundle.x509_authorities.iter().any(|known| **known == *der) => {}
            Ok(()) => bundle.x509_authorities.push(der.into()),
            Err(why) => ignored.push(Ignored { element: Element::Section(index + 1), why }),
        }
    }
    if bundle.x509_authorities.is_empty() { Err(NotABundle::NoCertificates) } else { Ok((bundle, ignored)) }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::IsCa;
    use rcgen::KeyPair;

    use super::*;
    use crate::identity::bundle::root::NotARoot;

    fn certificate(is_ca: IsCa) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        (pem("CERTIFICATE", params.self_signed(&key).unwrap().der()), pem("PRIVATE KEY", key.serialized_der()))
    }

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64_STANDARD.encode(der))
    }

    fn ca() -> String {
        certificate(IsCa::Ca(BasicConstraints::Unconstrained)).0
    }

    fn read_text(text: &str) -> Result<(Bundle, Vec<Ignored>), NotABundle> {
        Bundle::from_document("partner.test".parse().unwrap(), text.as_bytes())
    }

    #[test]
    fn ca_certificates_with_words_between_them_are_a_bundle() {
        let twice = ca();
        let (bundle, ignored) = read_text(&format!("# roots of partner.test\n{twice}\nold:\n{}{twice}", ca())).unwrap();
        assert_eq!((bundle.x509_authorities.len(), ignored), (2, vec![]), "a certificate twice is one root");
        assert_eq!((bundle.jwt_authorities.len(), bundle.sequence), (0, None));
        assert_eq!(bundle.x509_der_concatenated(), bundle.x509_authorities.concat());
    }

    #[test]
    fn a_section_without_a_ca_certificate_is_ignored_with_its_place() {
        let (leaf, key) = certificate(IsCa::NoCa);
        let (bundle, ignored) = read_text(&format!("{leaf}{}{key}", ca())).unwrap();
        assert_eq!(bundle.x509_authorities.len(), 1);
        let places: Vec<_> = ignored.iter().map(|ignored| (ignored.element, ignored.why)).collect();
        assert_eq!(
            places,
            [(Element::Section(1), Because::Root(NotARoot::NotACa)), (Element::Section(3), Because::PrivateKeyInFile),]
        );
    }

    #[test]
    fn a_file_without_a_usable_certificate_is_no_bundle() {
        let (leaf, key) = certificate(IsCa::NoCa);
        assert_eq!(read_text(&leaf), Err(NotABundle::NoCertificates));
        assert_eq!(read_text(&key), Err(NotABundle::NoCertificates));
        let cut = ca();
        assert_eq!(read_text(&cut[..cut.len() - 40]), Err(NotABundle::Pem), "half written");
        assert_eq!(read_text(&cut.replace("MII", "M~I")), Err(NotABundle::Pem));
        for nothing in ["", "\n", "-----", "hello", "[]", "null"] {
            assert_eq!(read_text(nothing), Err(NotABundle::Neither), "{nothing:?}");
        }
    }

    #[test]
    fn a_file_over_the_limits_is_refused() {
        let one = ca();
        assert!(matches!(read_text(&(one.clone() + &" ".repeat(MAX_BUNDLE))), Err(NotABundle::Json(_))));
        let many = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(MAX_KEYS + 1);
        assert!(matches!(read_text(&many), Err(NotABundle::TooManyKeys { .. })));
    }
}
