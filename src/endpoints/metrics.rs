//! `/metrics` in the OpenMetrics text format: the counters that rooms registered, and the gauges of the same report that
//! `status` prints. Counts nothing itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::Method;
use http::StatusCode;
use http::request::Parts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit;

use crate::endpoints::admin::operations::Operations;
use crate::endpoints::admin::reports::HealthState;
use crate::endpoints::admin::reports::StatusReport;
use crate::endpoints::http::HttpAnswer;
use crate::endpoints::http::HttpListener;
use crate::endpoints::http::answer;
use crate::endpoints::http::serve as serve_http;
use crate::readiness::ActiveReason;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves metrics on `listener`: everything in `registry`, and the gauges of the status; runs until it is dropped.
pub async fn serve(listener: HttpListener, mut registry: Registry, operations: Arc<dyn Operations>) {
    registry.register_collector(Box::new(Gauges(operations)));
    let registry = Arc::new(registry);
    serve_http(listener, move |request| std::future::ready(respond(&request, &registry))).await;
}

fn respond(request: &Parts, registry: &Registry) -> HttpAnswer {
    if request.uri.path() != "/metrics" || !matches!(request.method, Method::GET | Method::HEAD) {
        return answer(StatusCode::NOT_FOUND, "text/plain", "GET /metrics\n");
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => answer(StatusCode::OK, OPEN_METRICS, text),
        Err(fmt::Error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "a metric has no text form\n"),
    }
}

/// The status as gauges, read at each scrape.
#[derive(Debug)]
struct Gauges(Arc<dyn Operations>);

/// SECURITY: label values come from closed sets of ours. One that a caller or an entry could choose would let it grow
/// the number of series without bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Word {
    is: String,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let StatusReport { state, level, bundles, identities, configuration, sampled_at, reasons, .. } =
            self.0.status();
        let labels = |reason: &ActiveReason| [("reason", reason.name.clone()), ("severity", word(&reason.severity))];
        let mut by_reason = BTreeMap::<_, i64>::new();
        reasons.iter().for_each(|reason| *by_reason.entry(labels(reason)).or_default() += 1);
        let by_reason = by_reason.into_iter().map(|(labels, count)| (labels, ConstGauge::new(count)));
        let help = "Why it is not ready, or degraded; `bonafide status` says more";
        put_each(&mut encoder, ("bonafide_reasons", help, None), by_reason)?;
        let seconds = Some(&Unit::Seconds);
        let mut put = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn PutMetric| {
            metric.put(&mut encoder, name, help, unit)
        };
        let ready = ConstGauge::new(i64::from(state != HealthState::NotReady));
        put("bonafide_ready", "Whether identities are served", None, &ready)?;
        let degraded = ConstGauge::new(i64::from(state == HealthState::Degraded));
        put("bonafide_degraded", "Whether it serves, but not as it should", None, &degraded)?;
        put("bonafide_entries", "Entries in force", None, &count(identities.entries))?;
        put("bonafide_connections", "Connections on the workload socket", None, &count(identities.connections))?;
        put("bonafide_identities_live", "X509-SVIDs in use", None, &count(identities.live))?;
        let failed = ConstCounter::new(identities.renewals_failed);
        put("bonafide_renewals_failed", "Renewals that failed", None, &failed)?;
        if let Some(at) = identities.next_expiry_at {
            let left = ConstGauge::new(at - sampled_at);
            put("bonafide_next_expiry", "Until the first SVID ends, were it not renewed", seconds, &left)?;
        }
        let cut_short = ConstCounter::new(identities.cut_short);
        let help = "SVIDs that live shorter than their entry says, because the authority's key ends";
        put("bonafide_svids_cut_short", help, None, &cut_short)?;
        if let Some(sequence) = bundles.first().and_then(|own| own.sequence) {
            let sequence = ConstGauge::new(i64::try_from(sequence).unwrap_or(i64::MAX));
            put("bonafide_bundle_sequence", "spiffe_sequence of the own bundle", None, &sequence)?;
        }
        put("bonafide_configuration", "Which configuration is in force", None, &one_of(&configuration.state))?;
        put("bonafide_kernel_level", "What this kernel proves of a caller", None, &one_of(&level))
    }
}

/// Puts out one metric.
pub(in crate::endpoints) fn put(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

/// Puts out one metric with each of its label sets; its name and type also where there is none.
pub(in crate::endpoints) fn put_each<L: EncodeLabelSet, M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    metrics: impl IntoIterator<Item = (L, M)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, M::TYPE)?;
    metrics.into_iter().try_for_each(|(labels, metric)| metric.encode(family.encode_family(&labels)?))
}

/// A metric that can be put out once its name is known.
trait PutMetric {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>) -> fmt::Result;
}

impl<M: EncodeMetric> PutMetric for M {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<&Unit>) -> fmt::Result {
        put(to, (name, help, unit), self)
    }
}

fn count(of: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(of).unwrap_or(i64::MAX))
}

/// 1 for the word that holds now.
fn one_of(word: &impl serde::Serialize) -> Family<Word, Gauge> {
    let family = Family::<Word, Gauge>::default();
    family.get_or_create(&Word { is: self::word(word) }).set(1);
    family
}

fn word(of: &impl serde::Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::audit::metrics::AuditMetrics;
    use crate::audit::metrics::Rule;
    use crate::endpoints::admin::operations::tests::Fixed;

    async fn get(path: &str, registry: &Registry) -> (StatusCode, String) {
        let answer = respond(&http::Request::get(path).body(()).unwrap().into_parts().0, registry);
        let status = answer.status();
        (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn every_promised_figure_is_exported_with_its_unit() {
        let mut registry = Registry::default();
        let audit = AuditMetrics::default();
        audit.register(&mut registry);
        audit.denied.get_or_create(&Rule { rule: "no_entry".to_owned() }).inc();
        registry.register_collector(Box::new(Gauges(Arc::new(Fixed::default()))));
        let (status, text) = get("/metrics", &registry).await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "bonafide_denied_total{rule=\"no_entry\"} 1",
            "bonafide_dropped_log_lines_total 0",
            "bonafide_dropped_records_total 0",
            "bonafide_suppressed_log_lines_total 0",
            "bonafide_suppressed_records_total 0",
            "bonafide_ready 1",
            "bonafide_identities_live 3",
            "bonafide_connections 2",
            "bonafide_renewals_failed_total 1",
            "bonafide_next_expiry_seconds 1800",
            "bonafide_svids_cut_short_total 2",
            "bonafide_bundle_sequence 7",
            "# TYPE bonafide_reasons gauge",
            "bonafide_configuration{is=\"current\"} 1",
            "bonafide_kernel_level{is=\"full\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line || found == format!("{line}.0")), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(get("/", &registry).await.0, StatusCode::NOT_FOUND);
    }
}
