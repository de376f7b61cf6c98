//! The story: what happens in which order, what must have happened before the next line is told, and how long it took.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::cli::demo::event::DemoEvent;
use crate::cli::demo::event::Role;
use crate::cli::demo::event_log::EventLog;
use crate::cli::demo::failure::failed;
use crate::cli::demo::node::DemoNode;
use crate::cli::demo::node::Plan;
use crate::cli::demo::node::Service;
use crate::cli::demo::node::TRUST_DOMAIN;
use crate::cli::screen::Exit;
use crate::cli::screen::Failure;
use crate::cli::screen::Screen;
use crate::endpoints::admin::reports::StatusReport;

/// How long anything may take that happens at once.
const SOON: Duration = Duration::from_secs(10);
/// How long a rotation may take: an SVID of 10 s is renewed after half of that, and surely before its end.
const BEFORE_ITS_END: Duration = Duration::from_secs(10);

struct Story<'a> {
    screen: &'a mut Screen,
    begun: Instant,
    events: mpsc::Receiver<(Role, DemoEvent)>,
    log: EventLog,
}

/// Tells the whole story; fails at the first step that did not really happen.
pub(super) async fn tell(plan: Plan, screen: &mut Screen) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let (node, events) = DemoNode::start(plan).await?;
    let mut story = Story { screen, begun, events, log: EventLog::default() };
    story.the_node_is_up(&node).await?;
    let _talking = story.two_services_meet(&node).await?;
    story.their_svids_rotate().await?;
    story.an_impostor_is_refused(&node).await?;
    node.stop().await?;
    story.line("the node has stopped and its folder is gone");
    story.screen.text("\nAll of this really happened.\n");
    Ok(Exit::Fine)
}

impl Story<'_> {
    async fn the_node_is_up(&mut self, node: &DemoNode) -> Result<(), Failure> {
        let status = node.ask(&["status", "-o", "json"]).await?;
        let status: StatusReport =
            serde_json::from_str(&status).map_err(|error| failed("the node's status cannot be read", error))?;
        for folder in node.abandoned() {
            self.screen.text(&format!("An earlier demo was killed; {} is removed now\n", folder.display()));
        }
        self.screen.text(&format!("A node of its own, in {}\n\n", node.folder().display()));
        let level = format!("{:?}", status.level).to_lowercase();
        self.line(&format!("the node serves {TRUST_DOMAIN}; this kernel's proof is \"{level}\""));
        self.aside(if node.user(Role::Server).is_some() {
            "The services are three copies of this program, each run by a user\n\
             of its own, and the entries go by user. They are told where the\n\
             socket is (SPIFFE_ENDPOINT_SOCKET), and no secret."
        } else {
            "The services are three copies of this program. They are told where\n\
             the socket is (SPIFFE_ENDPOINT_SOCKET), and no secret. Without root\n\
             all run as one user, so the entries go by user and path. Paths tell\n\
             the programs of one user apart, against mistakes; they do not stop\n\
             hostile code of that same user. With root, each would run as a user\n\
             of its own."
        });
        Ok(())
    }

    async fn two_services_meet(&mut self, node: &DemoNode) -> Result<[Service; 2], Failure> {
        let server = node.play(Role::Server, &["--peer", &spiffe_id(Role::Client)])?;
        self.gets_an_identity(Role::Server, server.pid).await?;
        let address = self.until("the server listens", SOON, |log| log.address).await?.to_string();
        let arguments = ["--peer", &spiffe_id(Role::Server), "--server", &address];
        let client = node.play(Role::Client, &arguments)?;
        self.gets_an_identity(Role::Client, client.pid).await?;

        let meet = |log: &EventLog| Some((log.first_peer_of(Role::Client)?, log.first_peer_of(Role::Server)?));
        let ((server_shown, micros), (client_shown, _)) = self.until("they shake hands", SOON, meet).await?;
        self.line(&format!("they talk mTLS over {address}; the handshake took {}", milliseconds(micros)));
        self.aside(&format!("the client made sure of {}", server_shown.id));
        self.aside(&format!("the server made sure of {}", client_shown.id));
        Ok([server, client])
    }

    async fn gets_an_identity(&mut self, role: Role, pid: u32) -> Result<(), Failure> {
        let name = role.name();
        let (id, serial, micros) = self.until("it gets an identity", SOON, |log| log.identity_of(role)).await?;
        if id != spiffe_id(role) {
            return Err(failed(format!("the {name} got the identity of somebody else"), id));
        }
        let serial = short(&serial);
        self.line(&format!("{name}, pid {pid}, had its SVID {} after it asked", milliseconds(micros)));
        self.aside(&format!("{id}, serial {serial}"));
        Ok(())
    }

    async fn their_svids_rotate(&mut self) -> Result<(), Failure> {
        for (holder, peer) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let what = format!("the {} sees a new serial of the {}", peer.name(), holder.name());
            let rotated = self.until(&what, BEFORE_ITS_END, |log| log.rotated_peer_of(peer)).await?;
            let (old, new) = (short(&rotated.0.serial), short(&rotated.1.serial));
            self.line(&format!("{what} in a handshake: {old} -> {new}"));
        }
        let answered = self.log.answered;
        let more = self.until("requests flow after it", SOON, |log| (log.answered > answered).then_some(log.answered));
        let more = more.await?;
        self.line(&format!("{more} requests answered on the connection that was opened first"));
        self.aside("none failed, and it is still open");
        Ok(())
    }

    async fn an_impostor_is_refused(&mut self, node: &DemoNode) -> Result<(), Failure> {
        let server = self.log.address.map(|address| address.to_string()).unwrap_or_default();
        let arguments = ["--peer", &spiffe_id(Role::Server), "--server", &server];
        let impostor = node.play(Role::Impostor, &arguments)?;
        let answer = |log: &EventLog| match (&log.refused, log.identity_of(Role::Impostor)) {
            (Some(refused), _) => Some(Ok(refused.clone())),
            (None, Some((id, ..))) => Some(Err(id)),
            (None, None) => None,
        };
        let (code, message) = self
            .until("the impostor gets an answer", SOON, answer)
            .await?
            .map_err(|id| failed("the impostor got an identity", id))?;
        let denial = message.split(['(', ')']).find(|word| word.starts_with("d-")).unwrap_or_default().to_owned();
        if code != "PermissionDenied" || denial.is_empty() {
            return Err(failed("the impostor was refused in the wrong way", format!("{code}: {message}")));
        }
        self.line(&format!("impostor, pid {}, the same program again, hears:", impostor.pid));
        self.aside(&message);
        self.screen.text(&format!("\n$ bonafide explain --denial {denial}\n"));
        let explained = node.ask(&["explain", "--denial", &denial]).await?;
        self.screen.text(&format!("{}\n\n", explained.trim_end()));
        Ok(())
    }

    /// Waits until something has been seen. Everything that a service says meanwhile is logged, and a service that fails is
    /// the end of the story.
    async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        happened: impl Fn(&EventLog) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(happened) = happened(&self.log) {
                return Ok(happened);
            }
            let Ok(Some((role, event))) = timeout_at(deadline, self.events.recv()).await else {
                return Err(failed(format!("this did not happen: {what}"), format!("waited for {limit:?}")));
            };
            self.log.note(role, event)?;
        }
    }

    /// A line of the story, with the time since its beginning.
    fn line(&mut self, text: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.screen.text(&format!("{seconds:7.3} s  {text}\n"));
    }

    /// What belongs to the line before.
    fn aside(&mut self, text: &str) {
        for line in text.lines() {
            self.screen.text(&format!("           {line}\n"));
        }
    }
}

fn spiffe_id(role: Role) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{}", role.name())
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// Enough of a serial number to tell it from another.
fn short(serial: &str) -> String {
    serial.chars().take(8).collect()
}
