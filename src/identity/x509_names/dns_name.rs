//! DNS names of a certificate.

/// The most bytes of a name.
const MAX_NAME: usize = 253;
/// The most bytes of a label.
const MAX_LABEL: usize = 63;

/// Labels of ASCII letters, digits and inner hyphens (SPEC: RFC 5280 §4.2.1.6, RFC 1123 §2.1), and nothing that reads as
/// an address. The first label may be `*` where others follow (SPEC: RFC 6125 §6.4.3).
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let numeric_end = rest.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= MAX_NAME && rest.split('.').all(is_label) && !numeric_end
}

/// Whether a wildcard has fewer than two labels behind it: several verifiers, rustls among them, then refuse every DNS
/// name of the certificate.
#[must_use]
pub fn is_short_wildcard(name: &str) -> bool {
    name.strip_prefix("*.").is_some_and(|rest| !rest.contains('.'))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_the_whole_first_label_of_a_longer_name() {
        for name in ["web", "web.internal", "*.payments.internal", "*.internal", "xn--bcher-kva.example", "4.example"] {
            assert!(is_dns_name(name), "{name}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for name in [
            "",
            "*",
            "*.",
            ".",
            "*.*.internal",
            "w*.internal",
            "*w.internal",
            "web.*.internal",
            "web.*",
            "**.internal",
            "*.10.0.0.1",
            "10.0.0.1",
            "-a",
            "a-",
            "a..b",
            "a.",
            ".a",
            "a_b",
            "ü.example",
            "a b",
            &long,
            &"a.".repeat(127),
            "*.-a",
        ] {
            assert!(!is_dns_name(name), "{name}");
        }
        assert!(is_short_wildcard("*.internal"));
        assert!(!is_short_wildcard("*.payments.internal") && !is_short_wildcard("web.internal"));
    }
}
