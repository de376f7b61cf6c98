//! `[[federation]]`: the foreign trust domains whose bundles this node serves.

use std::path::Path;

use crate::agent::config::problem::Findings;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Section;
use crate::federation::FederationSettings;
use crate::identity::TrustDomain;

/// Reads one table. `own` is the node's own trust domain, where that could be read.
pub(in crate::agent::config) fn read(
    section: Section<'_>,
    own: Option<&TrustDomain>,
    findings: &mut Findings,
) -> Option<FederationSettings> {
    let file = section.file;
    let mut table = Reader::new(Some(section), findings);
    for key in ["trust_domain", "bundle_file"] {
        if table.place_of_key(key).is_none() {
            table.problem(section.at, format!("this [[federation]] has no {key}; add it"));
        }
    }
    let trust_domain = table.parsed::<TrustDomain>("trust_domain");
    if let Some((_, text)) = trust_domain.as_ref().filter(|(name, _)| Some(name) == own) {
        let advice = "the node's own trust domain needs no federation; remove it";
        table.problem(text.span.start, format!("trust_domain is {}; {advice}", shown(text.value)));
    }
    let bundle_file = table.string("bundle_file");
    for key in ["endpoint", "profile"] {
        table.not_built_yet(key, "a bundle endpoint");
    }
    table.finish();
    // A relative path starts at the directory of the file that has it.
    let folder = file.path.parent().unwrap_or(Path::new(""));
    Some(FederationSettings { trust_domain: trust_domain?.0, bundle_file: folder.join(bundle_file?.value) })
}
