//! **bonafide** gives every process on a Linux node its own short-lived SPIFFE identity, proven by the kernel and not by
//! a secret.
//!
//! # Floors
//!
//! A module names only modules of the floors below its own, and no two files use each other; `tests/floors.rs` fails
//! otherwise, and when the order below is another one than its own.
//!
//! # The trip of an SVID
//!
//! `endpoints` accepts a socket and hands the process behind it to `entitlement`, which opens a stream for it. The driver
//! of the stream (`entitlement/stream.rs`, `Driver::next_update`) has the process attested (`attestation`: the kernel's
//! facts, and what each source of evidence says), decided (`policy`, by the rulebook that holds the entries of
//! `registration`), issued for (`issuance`, signed by an `authority`) and recorded (`audit`). It hands the update back to
//! the endpoint, which encodes it. Before bytes of a secret leave, the transport asks the connection's gate whether the
//! process and the permits still are what they were.
//!
//! # Tasks
//!
//! `agent` builds all of it from one configuration. Every task is spawned by [`agent::node::Node`] or `agent/daemon.rs`;
//! one that ends early stops the daemon.
//!
//! | task | does | is woken by |
//! |---|---|---|
//! | accept loop, one per door, with the turns of its connections | takes in connections within their rate, and closes the others; runs those that are ready, one turn each time, of the principal that has used the least | the listener, a connection |
//! | connection, no task of the runtime | is pinned and charged in its first turn; runs HTTP/2 and every stream of the connection; a stream runs when its door asks for the next item | the socket, the streams, exit of the process, the stop |
//! | further threads, from five cores on | run turns, too | a connection |
//! | bundle publisher | encodes changed bundles and swaps them | the authority, the bundle files |
//! | rulebook owner, one per source of entries and one for names | merges the entries of all sources and the accounts of their names into the next rulebook | the source, the name service |
//! | configuration files, bundle files, account databases, on threads of their own | read or report files that changed | inotify, a timer |
//! | name service | asks who the users and groups of entries are, on bounded threads, and publishes what changes | a timer, an answer, a changed database, a reload |
//! | ranges of `/etc/subuid` | reads them, asks whose they are, and has callers charged by them | a changed file, an answer, a timer |
//! | order queue | sends orders to a signer on the network in batches | an order |
//! | image sweep | drops process images that have no connection, and SVIDs that have ended | a timer |
//! | look-up | resolves a path or hashes a file on a bounded thread | its thread |
//! | upkeep of the authority, each step on a thread that serves nobody | takes keys from stage to stage, has what a tainted key signed renewed | a timer |
//! | watches: clock, authority, data directory, memory, names, readiness, suppressed records | compare, report | a timer, a reason |
//! | log writer, a thread | empties the queues of lines, that of records first | a line |
//!
//! # Locks
//!
//! A mutex is held for a few instructions, never across an await, and no other is taken meanwhile, but for the queues of the
//! turns under the status of one task. Three are held for
//! longer, by those who write and never by those who serve: one for a whole reload (`agent/reload`), then the rulebook
//! owner's for a whole swap (with the name service's below it, for a few instructions), then the data directory's for a
//! write. `entitlement` has the map of its own.

// 11
pub mod cli; // every command, its arguments, its screen and its exit code
// 10
pub mod agent; // builds everything from one configuration, swaps it at a reload, and stops it with one deadline
// 9
pub mod endpoints; // sockets, gRPC and HTTP: codecs that decide nothing
// 7
pub mod entitlement; // what each live process holds now and why, until it ends
// 6
pub mod issuance; // permits become SVIDs, and when they are renewed
// 5
pub mod policy; // decides: evidence and a rulebook become permits, a denial or a wait, with the trace
// 4
pub mod attestation; // which process connected: proven the same before and after its facts were read
pub mod authority; // who signs, and the bundle that verifies it
pub mod federation; // foreign trust domains and their bundles
// 3
pub mod audit; // one record per issuance, hand-over, denial, undecided check and end
pub mod names; // who the users and groups of entries are, and how old each answer is
pub mod registration; // entries, and which of them some evidence satisfies
// 2b
pub mod fairness; // whose turn it is, and how much of everything each principal may hold
// 2
pub mod durable; // files that survive a power cut
pub mod evidence; // facts about a process with source and grade, and their text form
pub mod file_watch; // which files have changed, once their writers have closed them
pub mod readiness; // named reasons for "not yet" and "degraded"
pub mod trusted_path; // opens what nobody but root and the daemon can change
// 1
pub mod identity; // SPIFFE IDs, SVIDs, bundles and how each is verified
// 0
pub mod randomness; // random bytes, real or from a seed
pub mod sys; // system calls that no crate wraps: the only unsafe code
pub mod time; // the wall clock, and durations as text
