//! The attack catalogue, run against the shipped binary. Each test has the attack's number, an honest counterpart, and
//! the name of the function that is the defence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/http2.rs"]
mod http2;

#[path = "attacks/configuration.rs"]
mod configuration;
#[path = "attacks/doors.rs"]
mod doors;
#[path = "attacks/callers/executables.rs"]
mod executables;
#[path = "attacks/callers/file_systems.rs"]
mod file_systems;
#[path = "attacks/floods.rs"]
mod floods;
#[path = "attacks/callers/levels.rs"]
mod levels;
#[path = "attacks/name_service.rs"]
mod name_service;
#[path = "attacks/callers/node.rs"]
mod node;
#[path = "attacks/operators.rs"]
mod operators;
#[path = "attacks/callers/pid_reuse.rs"]
mod pid_reuse;
#[path = "attacks/callers/principals.rs"]
mod principals;
#[path = "attacks/callers/process_identity.rs"]
mod process_identity;
#[path = "attacks/requests.rs"]
mod requests;
#[path = "attacks/starving.rs"]
mod starving;
#[path = "attacks/callers/surroundings.rs"]
mod surroundings;
#[path = "attacks/system_calls.rs"]
mod system_calls;
#[path = "attacks/tokens.rs"]
mod tokens;
#[path = "attacks/transport.rs"]
mod transport;
