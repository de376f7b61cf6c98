//! The events of the services so far.

use std::net::SocketAddr;

use crate::cli::demo::event::DemoEvent;
use crate::cli::demo::event::PeerSvid;
use crate::cli::demo::event::Role;
use crate::cli::demo::failure::failed;
use crate::cli::screen::Failure;

/// The events so far, by what the story asks for.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    identities: Vec<(Role, String, String, u64)>,
    handshakes: Vec<(Role, PeerSvid, u64)>,
    /// Where the server listens.
    pub(super) address: Option<SocketAddr>,
    /// Requests answered on the connection that the client opened first.
    pub(super) answered: u64,
    /// The answer that the impostor got: code and message.
    pub(super) refused: Option<(String, String)>,
}

impl EventLog {
    /// Adds an event of `role`.
    ///
    /// # Errors
    /// When it failed, or has ended although nobody refused it.
    pub(super) fn note(&mut self, role: Role, event: DemoEvent) -> Result<(), Failure> {
        match event {
            DemoEvent::Identity { id, serial, micros } => self.identities.push((role, id, serial, micros)),
            DemoEvent::Listening { address } => self.address = Some(address),
            DemoEvent::Handshake { peer, micros } => self.handshakes.push((role, peer, micros)),
            DemoEvent::Answered { requests } => self.answered = requests,
            DemoEvent::Refused { code, message } if role == Role::Impostor => self.refused = Some((code, message)),
            DemoEvent::Exited { .. } if role == Role::Impostor => {}
            DemoEvent::Refused { message: why, .. } | DemoEvent::Failed { why } | DemoEvent::Exited { why } => {
                return Err(failed(format!("the {} failed", role.name()), why));
            }
        }
        Ok(())
    }

    /// The identity that `role` got first: SPIFFE ID, serial, and the microseconds it took.
    pub(super) fn identity_of(&self, role: Role) -> Option<(String, String, u64)> {
        let (_, id, serial, micros) = self.identities.iter().find(|(holder, ..)| *holder == role)?;
        Some((id.clone(), serial.clone(), *micros))
    }

    /// What the other side showed `role` in its first handshake, and how long that took.
    pub(super) fn first_peer_of(&self, role: Role) -> Option<(PeerSvid, u64)> {
        let (_, peer, micros) = self.handshakes.iter().find(|(seeing, ..)| *seeing == role)?;
        Some((peer.clone(), *micros))
    }

    /// What the other side showed `role` first, and then with another serial under the same SPIFFE ID.
    pub(super) fn rotated_peer_of(&self, role: Role) -> Option<(PeerSvid, PeerSvid)> {
        let (old, _) = self.first_peer_of(role)?;
        let is_new = |peer: &&PeerSvid| peer.id == old.id && peer.serial != old.serial;
        let seen_by_it = self.handshakes.iter().filter(|(seeing, ..)| *seeing == role).map(|(_, peer, _)| peer);
        let new = seen_by_it.into_iter().find(is_new)?.clone();
        Some((old, new))
    }
}
