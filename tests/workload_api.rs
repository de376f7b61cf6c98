//! The Workload API and its transport, seen from the client's end of a real Unix socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/callers.rs"]
mod callers;
#[path = "support/http2.rs"]
mod http2;
#[path = "support/kernel/mod.rs"]
mod kernel;
#[path = "support/late_source.rs"]
mod late_source;
#[path = "support/node.rs"]
mod node;
#[path = "support/pipes.rs"]
mod pipes;
#[path = "support/remote_signer.rs"]
mod remote_signer;
#[path = "support/second_door.rs"]
mod second_door;
#[path = "support/server_entries.rs"]
mod server_entries;
#[path = "../src/durable/simulated_disk.rs"]
mod simulated_disk;

use bonafide::durable;

#[path = "workload_api/answers.rs"]
mod answers;
#[path = "workload_api/over_time/bundles.rs"]
mod bundles;
#[path = "workload_api/calls.rs"]
mod calls;
#[path = "workload_api/over_time/clocks.rs"]
mod clocks;
#[path = "workload_api/over_time/connections.rs"]
mod connections;
#[path = "workload_api/over_time/containers.rs"]
mod containers;
#[path = "workload_api/door.rs"]
mod door;
#[path = "workload_api/over_time/endings.rs"]
mod endings;
#[path = "workload_api/ends.rs"]
mod ends;
#[path = "workload_api/over_time/entry_sources.rs"]
mod entry_sources;
#[path = "workload_api/over_time/evidence_sources.rs"]
mod evidence_sources;
#[path = "workload_api/over_time/file_systems.rs"]
mod file_systems;
#[path = "workload_api/hostile.rs"]
mod hostile;
#[path = "workload_api/over_time/in_flight.rs"]
mod in_flight;
#[path = "workload_api/over_time/lifetime.rs"]
mod lifetime;
#[path = "workload_api/over_time/names.rs"]
mod names;
#[path = "workload_api/over_time/operator.rs"]
mod operator;
#[path = "workload_api/over_time/power_cuts.rs"]
mod power_cuts;
#[path = "workload_api/over_time/process_images.rs"]
mod process_images;
#[path = "workload_api/reflection.rs"]
mod reflection;
#[path = "workload_api/over_time/refusals.rs"]
mod refusals;
#[path = "workload_api/over_time/reloads.rs"]
mod reloads;
#[path = "workload_api/over_time/remote_signer.rs"]
mod remote_signer_over_time;
#[path = "workload_api/over_time/rotation.rs"]
mod rotation;
#[path = "workload_api/over_time/second_door.rs"]
mod second_door_over_time;
#[path = "workload_api/security_header.rs"]
mod security_header;
#[path = "workload_api/over_time/seeds.rs"]
mod seeds;
#[path = "workload_api/sending.rs"]
mod sending;
#[path = "workload_api/socket.rs"]
mod socket;
#[path = "workload_api/over_time/truth.rs"]
mod truth;
#[path = "workload_api/over_time/upgrades.rs"]
mod upgrades;
