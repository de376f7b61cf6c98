//! Another writer of certificates, which wrote the authorities of an earlier release, writes the same.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use proptest::prelude::*;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use x509_parser::certificate::TbsCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::HOUR;
use super::life;
use super::new_key;
use super::order;
use super::own_certificate;
use super::signer;
use super::trust_domain;
use crate::authority::order::Order;
use crate::authority::signing::certificates;
use crate::authority::signing::certificates::OwnCertificate;
use crate::authority::signing::key::LocalKey;
use crate::authority::signing::key::SignatureForm;
use crate::authority::signing::key::SigningKey;
use crate::authority::signing::life::Life;
use crate::identity::PrivateKey;
use crate::identity::TrustDomain;
use crate::identity::x509_profile::to_be_signed;
use crate::randomness::NoRandomness;
use crate::randomness::Randomness;

/// Always the same octets.
#[derive(Debug, Clone, Copy)]
struct Constant([u8; 16]);

impl Randomness for Constant {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

impl Constant {
    fn serial(self) -> Vec<u8> {
        [&[1], &self.0[..]].concat()
    }
}

fn calendar(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time.duration_since(UNIX_EPOCH).unwrap()
}

fn pair(key: &PrivateKey) -> KeyPair {
    let der = PrivatePkcs8KeyDer::from(key.expose_pkcs8());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// An authority's own certificate, as the earlier release wrote it.
fn authority_by_the_other(trust_domain: &TrustDomain, life: Life, serial: &[u8]) -> CertificateParams {
    let mut own = CertificateParams::default();
    own.not_before = calendar(life.not_before);
    own.not_after = calendar(life.not_after);
    own.serial_number = Some(SerialNumber::from_slice(serial));
    own.distinguished_name = DistinguishedName::new();
    let hexadecimal: String = serial.iter().map(|octet| format!("{octet:02x}")).collect();
    own.distinguished_name.push(DnType::CommonName, format!("bonafide authority {hexadecimal}"));
    own.subject_alt_names = vec![uri(&trust_domain.id_string())];
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    own
}

fn leaf_by_the_other(order: &Order, life: Life, serial: &[u8]) -> CertificateParams {
    let mut leaf = CertificateParams::default();
    leaf.not_before = calendar(life.not_before);
    leaf.not_after = calendar(life.not_after);
    leaf.serial_number = Some(SerialNumber::from_slice(serial));
    leaf.distinguished_name = DistinguishedName::new();
    if let Some(name) = order.entry.terms.dns.first() {
        leaf.distinguished_name.push(DnType::CommonName, name);
    }
    let dns = order.entry.terms.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
    leaf.subject_alt_names = std::iter::once(uri(order.id.as_str())).chain(dns).collect();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, order.key.public_bits());
    leaf.key_identifier_method = KeyIdMethod::PreSpecified(hash.as_ref()[..20].to_vec());
    leaf
}

/// Every field, the extensions in the order of their identifiers.
fn fields(to_be_signed: &[u8]) -> Vec<Vec<u8>> {
    let (rest, read) = TbsCertificate::from_der(to_be_signed).unwrap();
    assert!(rest.is_empty());
    let mut extensions: Vec<_> = read
        .extensions()
        .iter()
        .map(|extension| [extension.oid.as_bytes(), &[u8::from(extension.critical)], extension.value].concat())
        .collect();
    extensions.sort();
    let times = [read.validity.not_before, read.validity.not_after]
        .map(|time| format!("{} {}", time.timestamp(), time.is_generalizedtime()).into_bytes());
    let head = [
        read.version.0.to_be_bytes().to_vec(),
        read.raw_serial().to_vec(),
        read.signature.algorithm.as_bytes().to_vec(),
        vec![u8::from(read.signature.parameters.is_some())],
        read.issuer.as_raw().to_vec(),
        read.subject.as_raw().to_vec(),
        read.subject_pki.raw.to_vec(),
    ];
    head.into_iter().chain(times).chain(extensions).collect()
}

fn authorities(trust_domain: &TrustDomain, life: Life, random: Constant) -> (PrivateKey, [Bytes; 2]) {
    let key = new_key();
    let local = LocalKey::new(&key, SignatureForm::Asn1).unwrap();
    let ours = certificates::self_signed(&local, trust_domain, life, &random).unwrap();
    let theirs = authority_by_the_other(trust_domain, life, &random.serial()).self_signed(&pair(&key)).unwrap();
    (key, [ours, Bytes::copy_from_slice(theirs.der())])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_authoritys_certificate_is_octet_by_octet_the_one_of_another_writer(
        trust_domain in "[a-z0-9._-]{1,255}",
        begins in 0_u64..4_000_000_000,
        lasts in 1_u64..10_000_000_000,
        random: [u8; 16],
    ) {
        let not_before = UNIX_EPOCH + Duration::from_secs(begins);
        let life = Life { not_before, not_after: not_before + Duration::from_secs(lasts) };
        let (_, [ours, theirs]) = authorities(&trust_domain.parse().unwrap(), life, Constant(random));
        prop_assert_eq!(to_be_signed(&ours).unwrap(), to_be_signed(&theirs).unwrap());
        let (_, ours) = X509Certificate::from_der(&ours).unwrap();
        let (_, theirs) = X509Certificate::from_der(&theirs).unwrap();
        prop_assert_eq!(ours.signature_algorithm, theirs.signature_algorithm);
        prop_assert_eq!(ours.signature_value.unused_bits, theirs.signature_value.unused_bits);
    }
}

#[tokio::test]
async fn an_authoritys_certificate_written_by_another_writer_reads_the_same() {
    let (key, written) = authorities(&trust_domain(), life(), Constant([7; 16]));
    let key = Arc::new(LocalKey::new(&key, SignatureForm::Asn1).unwrap());
    let [ours, theirs] = written.map(|der| OwnCertificate::read(der, &trust_domain()).unwrap());
    assert_eq!(ours.subject, theirs.subject);
    assert_eq!(ours.key_id, theirs.key_id);
    assert_eq!((ours.key(), ours.life), (theirs.key(), theirs.life));
    assert_eq!([&ours.public_key, &theirs.public_key], [key.public_key(); 2]);
    assert_eq!(ours.life, life());

    let chain = signer(key, &theirs).sign(&order(&["web.internal"])).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain.certificates[0]).unwrap();
    for root in [&ours.der, &theirs.der] {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
        leaf.verify_signature(Some(root.public_key())).unwrap();
    }
}

#[test]
fn a_certificate_that_breaks_the_profile_or_that_its_key_has_not_signed_is_not_read() {
    let (_, [der, _]) = authorities(&trust_domain(), life(), Constant([7; 16]));
    let read = |der: &[u8], trust_domain: &str| {
        OwnCertificate::read(Bytes::copy_from_slice(der), &trust_domain.parse().unwrap()).map(|own| own.key())
    };
    assert!(read(&der, "example.org").is_ok());
    let broken = Err("a certificate of the authority breaks the profile");
    assert_eq!(read(&der, "other.test"), broken);
    assert_eq!(read(&der[..der.len() - 1], "example.org"), broken);
    assert_eq!(read(&[&der[..], &[0]].concat(), "example.org"), broken);
    let mut forged = der.to_vec();
    let at = forged.windows(5).position(|window| window == [7; 5]).unwrap();
    forged[at] = 8;
    assert_eq!(read(&forged, "example.org"), Err("a certificate of the authority is not signed by its key"));
}

#[tokio::test]
async fn a_leaf_says_in_every_field_what_another_writer_says() {
    let random = Constant([7; 16]);
    let key = new_key();
    let issuer = pair(&key);
    let key = Arc::new(LocalKey::new(&key, SignatureForm::Asn1).unwrap());
    let own = own_certificate(&key);
    let (_, root) = X509Certificate::from_der(&own.der).unwrap();
    let mut params = authority_by_the_other(&trust_domain(), own.life, root.raw_serial());
    params.key_identifier_method = KeyIdMethod::PreSpecified(own.key_id.clone());
    let issuer = Issuer::new(params, issuer);
    for dns in [&[][..], &["web.internal"], &["*.db.internal", "db.internal"]] {
        let order = order(dns);
        let signer = certificates::X509Signer::new(key.clone(), trust_domain(), &own, Arc::new(random));
        let ours = signer.sign(&order).await.unwrap().certificates.remove(0);
        let life = Life { not_before: order.issued - Duration::from_secs(60), not_after: order.issued + HOUR };
        let subject = rcgen::SubjectPublicKeyInfo::from_der(order.key.public_key()).unwrap();
        let theirs = leaf_by_the_other(&order, life, &random.serial()).signed_by(&subject, &issuer).unwrap();
        assert_eq!(fields(&to_be_signed(&ours).unwrap()), fields(&to_be_signed(theirs.der()).unwrap()), "{dns:?}");
    }
}
