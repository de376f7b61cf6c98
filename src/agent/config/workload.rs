//! `[[workload]]`: one entry.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::agent::config::accounts::AccountNames;
use crate::agent::config::problem::shown;
use crate::agent::config::reader::Reader;
use crate::agent::config::reader::Text;
use crate::agent::config::sections::svid;
use crate::agent::config::sections::svid::SvidDefaults;
use crate::agent::config::warnings;
use crate::evidence::AccountName;
use crate::evidence::InvalidSelector;
use crate::evidence::Selector;
use crate::identity::InvalidSpiffeId;
use crate::identity::InvalidTrustDomain;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;
use crate::identity::x509_names::dns_name::is_short_wildcard;
use crate::identity::x509_names::is_dns_name;
use crate::registration::Entry;
use crate::registration::entry::EntryOrder;
use crate::registration::entry::Origin;
use crate::registration::entry::Terms;

const MAX_SELECTORS: usize = 64;
const MAX_HINT: usize = 1024;
const MAX_AUDIENCE: usize = 1024;
const MAX_DNS_NAMES: usize = 64;

/// The parts of the configuration that an entry depends on.
pub(in crate::agent::config) struct EntryContext<'c> {
    /// `None` where it could not be read.
    pub(in crate::agent::config) trust_domain: Option<&'c TrustDomain>,
    pub(in crate::agent::config) foreign: &'c BTreeSet<TrustDomain>,
    pub(in crate::agent::config) ca_ttl: Duration,
    pub(in crate::agent::config) defaults: SvidDefaults,
}

/// Reads one table; `None` where a problem was noted.
pub(in crate::agent::config) fn read(
    mut table: Reader<'_, '_>,
    context: &EntryContext<'_>,
    order: EntryOrder,
    names: &mut AccountNames,
) -> Option<Entry> {
    let id = read_id(&mut table, context.trust_domain);
    let x509_ttl = svid::lifetime(&mut table, "x509_ttl", context.ca_ttl);
    let jwt_ttl = svid::lifetime(&mut table, "jwt_ttl", context.ca_ttl);
    svid::keys_and_algorithms(&mut table);
    let terms = Terms {
        x509_ttl: x509_ttl.unwrap_or(context.defaults.x509_ttl),
        jwt_ttl: jwt_ttl.unwrap_or(context.defaults.jwt_ttl),
        dns: read_dns(&mut table),
        subject: context.defaults.subject.clone(),
        audiences: read_audiences(&mut table),
    };
    let federates_with = read_federates_with(&mut table, context);
    let hint = read_hint(&mut table);
    let priority = table.integer("priority", -1_000_000_000..=1_000_000_000).unwrap_or_default();
    let accept_weak = table.boolean("accept_weak").unwrap_or_default();
    let selectors = read_selectors(&mut table, names);
    if let (Some(id), Some(selectors)) = (&id, &selectors) {
        check_strength(&mut table, id, selectors, accept_weak);
    }
    let origin = Origin::File { file: table.file()?.path.to_owned(), line: table.line() };
    table.finish();
    Some(Entry { id: id?, selectors: selectors?, terms, federates_with, hint, priority, accept_weak, order, origin })
}

fn read_id(table: &mut Reader<'_, '_>, own: Option<&TrustDomain>) -> Option<SpiffeId> {
    if table.place_of_key("id").is_none() {
        table.problem(table.place(), "this [[workload]] has no id; add one, for example id = \"/web\"");
    }
    let text = table.string("id")?;
    let written = shown(text.value);
    if let Some(at) = text.value.find('{') {
        table.problem(
            text.place_of(at),
            format!("id is {written}: templates are not in this version yet; write it out"),
        );
        return None;
    }
    let whole = text.value.starts_with("spiffe://");
    if !whole && !text.value.starts_with('/') {
        let advice = "write a path that begins with \"/\", or the whole spiffe:// URI";
        table.problem(text.span.start, format!("id is {written}; {advice}"));
        return None;
    }
    let stand_in;
    let trust_domain = match own {
        Some(own) => own,
        None => {
            stand_in = "example.org".parse().ok()?;
            &stand_in
        }
    };
    let id = if whole { text.value.parse() } else { SpiffeId::new(trust_domain, text.value) };
    match id {
        Ok(id) if whole && own.is_some_and(|own| !id.is_member_of(own)) => {
            let advice = format!("this node issues for {trust_domain}; write an id of that trust domain");
            table.problem(text.span.start, format!("id is {written}; {advice}"));
            None
        }
        Ok(id) => Some(id),
        Err(error) => {
            table.problem(text.place_of(offset_of(&error, text.value)), format!("id is {written}: {error}"));
            None
        }
    }
}

/// Where in the text of an id its error is.
fn offset_of(error: &InvalidSpiffeId, text: &str) -> usize {
    let scheme = if text.starts_with('/') { 0 } else { "spiffe://".len() };
    let after_scheme = text.get(scheme..).unwrap_or_default();
    match error {
        InvalidSpiffeId::TrustDomain(
            InvalidTrustDomain::UpperCase { at, .. } | InvalidTrustDomain::Character { at, .. },
        ) => scheme + at,
        InvalidSpiffeId::PathSegment { at } | InvalidSpiffeId::PathCharacter { at, .. } => {
            scheme + after_scheme.find('/').unwrap_or_default() + at
        }
        _ => 0,
    }
}

fn read_selectors(table: &mut Reader<'_, '_>, names: &mut AccountNames) -> Option<Vec<Selector>> {
    const NONE: &str = "an entry without selectors would match every process; add selectors = [\"unix:user:NAME\"] or \
                        [\"systemd:id:NAME.service\"]";
    let texts = table.strings("selectors");
    let Some(at) = table.place_of_key("selectors") else {
        table.problem(table.place(), NONE);
        return None;
    };
    let texts = texts?;
    if texts.is_empty() {
        table.problem(at, NONE);
        return None;
    }
    if texts.len() > MAX_SELECTORS {
        table.problem(at, format!("{} selectors; at most {MAX_SELECTORS} make sense", texts.len()));
        return None;
    }
    let parsed: Vec<_> = texts.iter().map(|text| read_selector(table, text, names)).collect();
    let mut selectors = parsed.into_iter().collect::<Option<Vec<_>>>()?;
    warnings::selectors::warn_of(table, &selectors, &texts);
    selectors.sort();
    let twice = selectors.windows(2).find_map(|pair| {
        if let [a, b] = pair
            && a == b
        {
            Some(a)
        } else {
            None
        }
    });
    if let Some(twice) = twice {
        table.warn(at, format!("selector \"{twice}\" is written twice"));
    }
    selectors.dedup();
    Some(selectors)
}

fn read_selector(table: &mut Reader<'_, '_>, text: &Text<'_>, names: &mut AccountNames) -> Option<Selector> {
    let selector = match text.value.parse::<Selector>() {
        Ok(selector) => selector,
        Err(error) => {
            let at = match error {
                InvalidSelector::Value { at, .. } | InvalidSelector::NotPrintable { at, .. } => at,
                _ => 0,
            };
            table.problem(text.place_of(at), format!("selector {} {error}", shown(text.value)));
            return None;
        }
    };
    let place = table.place_at(text.span.start);
    if let Some(name) = AccountName::of(&selector) {
        names.note(name, place);
    }
    Some(selector)
}

/// SECURITY: an entry with paths, hashes and slices alone gives its identity to every user who can start that program: the
/// program is the user's choice, and what runs in it as well (`LD_PRELOAD`, ptrace, attacks 149 and 155). `accept_weak` says
/// that this is meant, and is warned of.
fn check_strength(table: &mut Reader<'_, '_>, id: &SpiffeId, selectors: &[Selector], accept_weak: bool) {
    let at = table.place_of_key("selectors").unwrap_or_default();
    let program = selectors.iter().find_map(|selector| match selector {
        Selector::UnixPath(path) => path.rsplit('/').next(),
        _ => None,
    });
    let name = program.or(id.path().rsplit('/').next()).unwrap_or_default();
    let advice = format!(
        "add the unit or the user that runs it, for example \"systemd:id:{name}.service\" or \"unix:user:{name}\""
    );
    if !accept_weak && !selectors.iter().any(Selector::is_strong) {
        table.problem(
            at,
            format!(
                "entry {:?} has no selector that tells it from other processes of this node; {advice}, or accept_weak = \
                 true",
                id.path()
            ),
        );
    }
    let is_no_limit = |selector: &Selector| selector.is_of_executable() || *selector == Selector::Host;
    if accept_weak && selectors.iter().any(Selector::is_of_executable) && selectors.iter().all(is_no_limit) {
        table.warn(
            at,
            format!(
                "entry {:?} rests on a path or a hash alone: any user of this machine can start that program, with code \
                 of their own in it, and gets this identity; {advice}",
                id.path()
            ),
        );
    }
    let root = selectors.contains(&Selector::UnixUid(0));
    if root && !selectors.iter().any(|selector| matches!(selector, Selector::Host | Selector::SystemdId(_))) {
        table.warn(
            at,
            format!(
                "entry {:?} is for \"unix:uid:0\", which root of every rootful container has, too; add \"host:true\" or a \
                 unit",
                id.path()
            ),
        );
    }
}

fn read_dns(table: &mut Reader<'_, '_>) -> Vec<String> {
    let names = table.strings("dns").unwrap_or_default();
    if let Some(text) = names.get(MAX_DNS_NAMES) {
        table.problem(text.span.start, format!("{} names in dns; at most {MAX_DNS_NAMES} are allowed", names.len()));
    }
    for text in names.iter().filter(|text| !is_dns_name(text.value)) {
        let advice =
            "write a DNS name of letters, digits and hyphens, for example \"web.internal\" or \"*.web.internal\"";
        table.problem(text.span.start, format!("dns has {}; {advice}", shown(text.value)));
    }
    for text in names.iter().filter(|text| is_short_wildcard(text.value)) {
        let advice = "with one label behind the wildcard some verifiers refuse every DNS name of the certificate; write a \
                      longer name, for example \"*.web.internal\"";
        table.warn(text.span.start, format!("dns has {}: {advice}", shown(text.value)));
    }
    names.iter().map(|text| text.value.to_owned()).collect()
}

fn read_audiences(table: &mut Reader<'_, '_>) -> Option<Vec<String>> {
    let audiences = table.strings("audiences")?;
    for text in audiences.iter().filter(|text| text.value.is_empty() || text.value.len() > MAX_AUDIENCE) {
        let advice = format!("an audience has 1 to {MAX_AUDIENCE} bytes");
        table.problem(text.span.start, format!("audiences has {}; {advice}", shown(text.value)));
    }
    Some(audiences.iter().map(|text| text.value.to_owned()).collect())
}

fn read_federates_with(table: &mut Reader<'_, '_>, context: &EntryContext<'_>) -> Vec<TrustDomain> {
    let mut foreign = Vec::new();
    for text in table.strings("federates_with").unwrap_or_default() {
        let written = shown(text.value);
        match text.value.parse::<TrustDomain>() {
            Ok(name) if context.foreign.contains(&name) => foreign.push(name),
            Ok(name) if Some(&name) == context.trust_domain => {
                let advice = "every workload sees the bundle of its own trust domain; remove it";
                table.problem(text.span.start, format!("federates_with has {written}; {advice}"));
            }
            Ok(_) => {
                let advice = format!("there is no such [[federation]]; add one with trust_domain = {written}");
                table.problem(text.span.start, format!("federates_with has {written}; {advice}"));
            }
            Err(error) => table.problem(text.span.start, format!("federates_with has {written}: {error}")),
        }
    }
    foreign.sort();
    foreign.dedup();
    foreign
}

fn read_hint(table: &mut Reader<'_, '_>) -> Option<String> {
    let text = table.string("hint")?;
    if text.value.is_empty() || text.value.len() > MAX_HINT {
        table.problem(text.span.start, format!("hint has {} bytes; write 1 to {MAX_HINT}", text.value.len()));
    }
    Some(text.value.to_owned())
}
