//! What claims in Redis cost, compared with another build of the service.

use std::path::Path;

use countersign::domain::algorithm::Algorithm;

use super::{
    CONNECTIONS,
    seed::Registry,
    side_by_side::{BASELINE_SETTINGS, DECISIONS, PLACEMENT, Variant, measure},
};
use crate::{
    server::Server,
    table::{Bound, Section},
    tokens::Signer,
};

/// Maximum ratio of the CPU time of a decision to the baseline.
const BOUND: f64 = 1.03;
const PRINCIPALS: usize = 16;

/// `baseline` is a build of the service without the change to measure, such as the commit before
/// it.
pub(crate) async fn run(is_quick: bool, baseline: Option<&Path>) -> Section {
    let mut section = Section::default();
    for (algorithm, name) in [(Algorithm::Rs256, "RS256"), (Algorithm::EdDsa, "Ed25519")] {
        let registry = Registry::new(PRINCIPALS, 1, algorithm, PRINCIPALS).await;
        let signers: Vec<Signer> = (0..PRINCIPALS).map(|number| registry.signer(number)).collect();
        let own = Path::new(env!("CARGO_BIN_EXE_countersign"));
        let mut plan = vec![("as it comes", own, [].as_slice())];
        plan.extend(
            baseline.map(|baseline| ("the baseline", baseline, BASELINE_SETTINGS.as_slice())),
        );
        let (mut stores, mut variants) = (Vec::new(), Vec::new());
        for (label, program, settings) in plan {
            let folder = tempfile::tempdir().unwrap();
            let redis = Server::redis(PLACEMENT, folder.path());
            let url = format!("redis://{}", redis.address);
            let server =
                Server::countersign_from(program, PLACEMENT, registry.dir(), &url, settings);
            variants.push(Variant::of(label, server, &signers).await);
            stores.push((redis, folder));
        }
        let server = Server::countersign_from(own, PLACEMENT, registry.dir(), "memory:", &[]);
        variants.push(Variant::of("nonces in memory", server, &signers).await);
        measure(&format!("claims, {name}"), &mut variants, &signers, is_quick).await;
        let what = format!("allow, {name}, nonces in Redis, HTTP");
        match &variants[..] {
            [own, baseline, memory] => {
                section.rows.push(own.against(baseline, &what, Some(Bound::AtMost(BOUND))));
                section.rows.push(own.against(memory, &what, None));
            }
            [own, memory] => section.rows.push(own.against(memory, &what, None)),
            _ => panic!("two or three are measured"),
        }
        section.notes.push(format!(
            "Claims, {name}: {} rounds of {DECISIONS} decisions of each service in turn, {CONNECTIONS} connections, a Redis each.",
            variants[0].rounds.len()
        ));
    }
    section
}
