//! What is true of a machine and of its configuration, whatever the node believes, and the judge of what the node does.
//!
//! Left out, because the node finds it out at its next decision only: a label that a process lost still counts for what the
//! process asked for before. A client that reads may be told less than is true at any time; that it is told all of it in the
//! end is judged once all faults are over.

use std::collections::HashMap;
use std::sync::Arc;

use bonafide::endpoints::transport::http2::frames;

use crate::node::workload;

const PREFIX: &[u8] = b"spiffe://example.org/";
/// The one supplementary group that counts.
pub(crate) const GROUP: u32 = 2000;

/// What an entry needs beside the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// The name of the user, too.
    Name,
    Program(&'static str),
    /// To be in [`GROUP`].
    Group,
    /// The one unit that counts.
    Unit,
    Host,
    /// What only a source beside the kernel knows.
    Label,
}

/// The name of a user.
pub(crate) fn user_name(uid: u32) -> String {
    format!("user-{uid}")
}

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) path: &'static str,
    pub(crate) uid: u32,
    pub(crate) need: Need,
}

impl Rule {
    /// Its table in a configuration; a label has to be added to it.
    pub(crate) fn table(&self) -> String {
        let mut selectors = vec![format!("unix:uid:{}", self.uid)];
        selectors.extend(match self.need {
            Need::Nothing | Need::Label => None,
            Need::Name => Some(format!("unix:user:{}", user_name(self.uid))),
            Need::Program(program) => Some(format!("unix:path:{program}")),
            Need::Group => Some(format!("unix:supplementary_gid:{GROUP}")),
            Need::Unit => Some("systemd:id:web.service".to_owned()),
            Need::Host => Some("host:true".to_owned()),
        });
        workload(self.path, &selectors.iter().map(String::as_str).collect::<Vec<_>>()) + "x509_ttl = \"6m\"\n"
    }
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Unit,
    OtherUnit,
    Container,
}

/// A process, told apart from others by its number.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) uid: u32,
    pub(crate) program: &'static str,
    pub(crate) place: Place,
    pub(crate) own_user_namespace: bool,
    pub(crate) group: bool,
    pub(crate) host_cgroup_namespace: bool,
    pub(crate) label: Fading,
    /// The node has sent something to it. A change before its connection was accepted cannot be told from having been so
    /// all along.
    pub(crate) is_spoken_to: bool,
    /// It has another image or other credentials than when it connected, or may have: it may be refused everything.
    pub(crate) has_changed: bool,
    /// Likewise, and it must be refused everything.
    pub(crate) is_nobody: bool,
    /// Calls that it has made on its connection.
    pub(crate) calls: u32,
    /// Nothing is permitted to it.
    has_nothing: Fading,
}

/// Something that holds of a process, and what it held for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fading {
    holds: bool,
    /// How many calls the process had made when it last ceased to hold.
    ceased_after: u32,
}

impl Fading {
    pub(crate) const fn new(holds: bool) -> Self {
        Self { holds, ceased_after: 0 }
    }

    pub(crate) fn set(&mut self, holds: bool, calls: u32) {
        if self.holds && !holds {
            self.ceased_after = calls;
        }
        self.holds = holds;
    }

    /// Whether it held at any time since the call of this number was made.
    fn held_since(self, call: u32) -> bool {
        self.holds || call < self.ceased_after
    }
}

impl Subject {
    pub(crate) fn new(uid: u32, program: &'static str, is_labelled: bool) -> Self {
        Self {
            uid,
            program,
            place: Place::Unit,
            own_user_namespace: false,
            group: true,
            host_cgroup_namespace: true,
            label: Fading::new(is_labelled),
            is_spoken_to: false,
            has_changed: false,
            is_nobody: false,
            calls: 0,
            has_nothing: Fading::new(false),
        }
    }

    /// Whether a rule fits; each fact that fades counts as `held` says.
    fn fits(&self, rule: &Rule, held: impl Fn(Fading) -> bool) -> bool {
        let on_host = !self.own_user_namespace && self.place != Place::Container;
        let fits = match rule.need {
            Need::Nothing => true,
            Need::Name => on_host,
            Need::Program(program) => on_host && program == self.program,
            Need::Group => self.group,
            Need::Unit => self.place == Place::Unit,
            Need::Host => on_host && self.host_cgroup_namespace,
            Need::Label => held(self.label),
        };
        rule.uid == self.uid && fits && !self.is_nobody
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    rules: Vec<Rule>,
    subjects: HashMap<u32, Subject>,
    /// What is on its way out, by process.
    connections: HashMap<u32, Connection>,
    /// What leaves is not judged any more: a process may have several connections by then, and is told one from another by
    /// its number alone.
    pub(crate) is_over: bool,
    /// Names of identities that left.
    pub(crate) handed_over: u64,
    /// Refusals that were judged.
    pub(crate) refused: u64,
    /// What should never be.
    pub(crate) wrong: Vec<String>,
}

impl Truth {
    pub(crate) fn change_rules(&mut self, rules: Vec<Rule>) {
        self.rules = rules;
        self.note_who_has_nothing();
    }

    pub(crate) fn add(&mut self, pid: u32, subject: Subject) {
        self.subjects.insert(pid, subject);
        self.note_who_has_nothing();
    }

    /// Something happens to a process.
    pub(crate) fn change<T>(&mut self, pid: u32, act: impl FnOnce(&mut Subject) -> T) -> T {
        let result = act(self.subjects.get_mut(&pid).unwrap());
        self.note_who_has_nothing();
        result
    }

    /// Something happens to all processes of a user.
    pub(crate) fn change_all_of(&mut self, uid: u32, act: impl Fn(&mut Subject)) {
        self.subjects.values_mut().filter(|subject| subject.uid == uid).for_each(act);
        self.note_who_has_nothing();
    }

    /// The paths that are permitted to a process now, in order.
    pub(crate) fn permitted(&self, pid: u32) -> Vec<&'static str> {
        let subject = &self.subjects[&pid];
        self.rules.iter().filter(|rule| subject.fits(rule, |fact| fact.holds)).map(|rule| rule.path).collect()
    }

    fn note_who_has_nothing(&mut self) {
        for subject in self.subjects.values_mut() {
            let has_nothing = !self.rules.iter().any(|rule| subject.fits(rule, |fact| fact.holds));
            subject.has_nothing.set(has_nothing, subject.calls);
        }
    }

    /// A call of a process was answered with `PermissionDenied`: right only if it had nothing at some time since, or is not
    /// who it was.
    pub(crate) fn judge_refusal(&mut self, pid: u32, call: u32) {
        self.refused += 1;
        let subject = &self.subjects[&pid];
        if !subject.has_changed && !subject.has_nothing.held_since(call) {
            self.wrong.push(format!("call {call} of process {pid}, {subject:?}, was refused by {:?}", self.rules));
        }
    }

    /// Takes in what leaves for `pid`, and judges every whole message by what was permitted when its first byte left and
    /// when its last one did.
    pub(crate) fn leaves(&mut self, pid: u32, bytes: &[u8]) {
        if self.is_over {
            return;
        }
        if let Some(subject) = self.subjects.get_mut(&pid) {
            subject.is_spoken_to = true;
        }
        let mut connection = self.connections.remove(&pid).unwrap_or_default();
        for byte in bytes {
            if connection.frame.is_empty() {
                connection.now = Arc::new(self.now(pid));
            }
            connection.frame.push(*byte);
            for message in connection.take_messages() {
                self.judge(pid, &message);
            }
        }
        self.connections.insert(pid, connection);
    }

    fn judge(&mut self, pid: u32, message: &Message) {
        let now = self.now(pid);
        for path in message.identities() {
            self.handed_over += 1;
            for when in [&*message.then, &now] {
                if !message.may_carry(&path, when) {
                    self.wrong.push(format!("process {pid} was handed {path} when there was {when:?}"));
                }
            }
        }
    }

    fn now(&self, pid: u32) -> Then {
        Then { subject: self.subjects.get(&pid).cloned(), rules: self.rules.clone() }
    }
}

/// What was true at some time about one process.
#[derive(Debug, Default)]
struct Then {
    subject: Option<Subject>,
    rules: Vec<Rule>,
}

/// What the node sends to one process.
#[derive(Debug, Default)]
struct Connection {
    /// The frame of HTTP/2 that is not whole yet.
    frame: Vec<u8>,
    /// What was true when its first byte left.
    now: Arc<Then>,
    /// The messages that are not whole yet, by stream.
    messages: HashMap<u32, Message>,
}

/// An answer of gRPC on its way out.
#[derive(Debug, Default)]
struct Message {
    stream: u32,
    bytes: Vec<u8>,
    /// What was true when the frame with its first byte began to leave.
    then: Arc<Then>,
}

impl Connection {
    /// The messages that became whole with the last byte.
    fn take_messages(&mut self) -> Vec<Message> {
        // SPEC: RFC 9113 §4.1: a length of 24 bits, a type, flags and a stream before the payload.
        let [high, middle, low, kind, _, a, b, c, d, ..] = self.frame[..] else { return Vec::new() };
        if self.frame.len() < 9 + u32::from_be_bytes([0, high, middle, low]) as usize {
            return Vec::new();
        }
        let frame = std::mem::take(&mut self.frame);
        if kind != frames::kind::DATA {
            return Vec::new();
        }
        let stream = u32::from_be_bytes([a, b, c, d]);
        let mut message = self.messages.remove(&stream).unwrap_or_default();
        let mut whole = Vec::new();
        for byte in &frame[9..] {
            if message.bytes.is_empty() {
                message = Message { stream, bytes: Vec::new(), then: self.now.clone() };
            }
            message.bytes.push(*byte);
            if message.is_whole() {
                whole.push(std::mem::take(&mut message));
            }
        }
        self.messages.insert(stream, message);
        whole
    }
}

impl Message {
    /// SPEC: gRPC over HTTP/2: a byte that tells of compression, and a length of 32 bits before the message.
    fn is_whole(&self) -> bool {
        let [_, a, b, c, d, ..] = self.bytes[..] else { return false };
        self.bytes.len() == 5 + u32::from_be_bytes([a, b, c, d]) as usize
    }

    /// The paths of SPIFFE IDs in it: they stand in clear text in every message that hands over an identity.
    fn identities(&self) -> Vec<String> {
        let at = (0..self.bytes.len()).filter(|at| self.bytes[*at..].starts_with(PREFIX));
        let path = |at: usize| {
            let rest = &self.bytes[at + PREFIX.len() - 1..];
            let end = rest[1..].iter().position(|byte| !byte.is_ascii_lowercase()).map_or(rest.len(), |end| end + 1);
            String::from_utf8_lossy(&rest[..end]).into_owned()
        };
        at.map(path).collect()
    }

    fn may_carry(&self, path: &str, when: &Then) -> bool {
        let Then { subject: Some(subject), rules } = when else { return false };
        // SPEC: RFC 9113 §5.1.1: a client's streams have odd numbers, in the order of its calls.
        let held = |fact: Fading| fact.held_since(self.stream / 2);
        rules.iter().any(|rule| rule.path == path && subject.fits(rule, held))
    }
}
