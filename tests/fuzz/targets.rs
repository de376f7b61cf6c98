//! One plain function per parser of what comes from outside. Each holds an oracle: what must be true of the answer,
//! whatever the input was. Shared by the fuzzers and by the replay of their corpus.

use bonafide::endpoints::transport::authority_filter::AuthorityFilter;
use bonafide::endpoints::transport::authority_filter::Violation;
use bonafide::evidence::Selector;
use bonafide::identity::SpiffeId;

type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: &[(&str, Target)] =
    &[("authority_filter", authority_filter), ("selector", selector), ("spiffe_id", spiffe_id)];

/// Hands `input` to the target called `name`.
pub(crate) fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(input);
}

/// How the input is cut makes no difference, what has passed once passes again unchanged, and nothing grows beyond what
/// Huffman coding can hide.
fn authority_filter(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = filtered(&[bytes]);
    let pieces: Vec<_> = bytes.chunks(usize::from(*cut).max(1)).collect();
    assert_eq!(whole, filtered(&pieces), "cut every {cut} bytes");
    let (output, violation) = whole;
    assert!(output.len() <= bytes.len() * 8 / 5 + 16, "{} bytes became {}", bytes.len(), output.len());
    if violation.is_none() {
        assert_eq!(filtered(&[&output]), (output.clone(), None));
    }
}

fn filtered(pieces: &[&[u8]]) -> (Vec<u8>, Option<Violation>) {
    let (mut filter, mut output) = (AuthorityFilter::default(), Vec::new());
    let violation = pieces.iter().find_map(|piece| filter.feed(piece, &mut output).err());
    (output, violation)
}

/// Exactly the SPIFFE IDs of a naive reading of the standard are accepted, and nothing is changed on the way.
fn spiffe_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = text.parse::<SpiffeId>();
    assert_eq!(parsed.is_ok(), is_spiffe_id(text), "{text:?} gave {parsed:?}");
    if let Ok(id) = parsed {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    }
}

fn is_spiffe_id(text: &str) -> bool {
    let mut parts = text.split('/');
    let scheme = parts.next() == Some("spiffe:") && parts.next() == Some("");
    let name = parts.next().unwrap_or_default();
    let name = (1..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b));
    let path: Vec<_> = parts.collect();
    let path = !path.is_empty()
        && path.iter().all(|segment| {
            !["", ".", ".."].contains(segment)
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        });
    scheme && name && path && text.len() <= 2048
}

/// An accepted selector has one spelling, and holds no character that could forge a line of a log.
fn selector(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(selector) = text.parse::<Selector>() else { return };
    assert_eq!(selector.to_string(), text);
    assert!(text.starts_with(selector.kind().as_str()));
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
