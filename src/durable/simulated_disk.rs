//! A disk that loses power: at a chosen step, and then with a chosen part of what was not yet synced. Integration tests
//! include this file too, below a `use bonafide::durable` of their own.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;

use crate::durable::Files;
use crate::durable::NewFile;
use crate::durable::Unreadable;

/// What becomes of the bytes and names that were not synced when the power fails. A real file system may do any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// All of it is lost.
    Lost,
    /// All of it happens to be there.
    Kept,
    /// Names are there; bytes up to this length.
    TornAt(usize),
    /// Names are there; bytes have their length and are zero.
    Zeroed,
}

/// What a step meets instead of success.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// This step and all after it fail: the power is gone. Steps count from 0.
    PowerFailsAt(usize),
    /// This one step fails with an error of the system's; what it was to do is not done.
    StepFails(usize, io::ErrorKind),
    /// Every step that writes fails with this error.
    NoWrites(io::ErrorKind),
    /// Every step that writes takes as long as this trouble is not over.
    Hangs,
}

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<(Mutex<Platter>, Condvar)>);

#[derive(Debug, Default, Clone)]
struct Platter {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    steps: usize,
    trouble: Option<Trouble>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

impl SimulatedDisk {
    /// The same disk with trouble ahead; counts steps from here.
    pub(crate) fn expect(&self, trouble: Trouble) {
        let mut platter = self.platter();
        platter.steps = 0;
        platter.trouble = Some(trouble);
        self.0.1.notify_all();
    }

    /// What a machine finds that starts on this disk after the power failed now.
    pub(crate) fn after_power_cut(&self, unsynced: Unsynced) -> Self {
        let mut platter = self.platter().clone();
        if unsynced == Unsynced::Lost {
            platter.names.clone_from(&platter.synced_names);
        }
        for file in &mut platter.files {
            match unsynced {
                _ if file.bytes == file.synced => {}
                Unsynced::Lost => file.bytes.clone_from(&file.synced),
                Unsynced::Kept => {}
                Unsynced::TornAt(length) => file.bytes.truncate(length.max(file.synced.len())),
                Unsynced::Zeroed => file.bytes.fill(0),
            }
            file.synced.clone_from(&file.bytes);
        }
        platter.synced_names.clone_from(&platter.names);
        platter.steps = 0;
        platter.trouble = None;
        Self(Arc::new((Mutex::new(platter), Condvar::new())))
    }

    /// Whether the power has failed as it was expected to.
    pub(crate) fn power_has_failed(&self) -> bool {
        let platter = self.platter();
        matches!(platter.trouble, Some(Trouble::PowerFailsAt(at)) if platter.steps > at)
    }

    /// Puts bytes where they must not be, as a bad cable would.
    pub(crate) fn overwrite(&self, name: &str, bytes: &[u8]) {
        let mut platter = self.platter();
        let file = platter.names[name];
        platter.files[file] = Content { bytes: bytes.to_vec(), synced: bytes.to_vec() };
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.0.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let mut platter = self.platter();
        let step = platter.steps;
        platter.steps += 1;
        match platter.trouble {
            Some(Trouble::PowerFailsAt(at)) if step >= at => Err(io::Error::other("the power has failed")),
            Some(Trouble::StepFails(at, kind)) if step == at => Err(kind.into()),
            Some(Trouble::NoWrites(kind)) => Err(kind.into()),
            Some(Trouble::Hangs) => {
                let (_, over) = &*self.0;
                Ok(over.wait_while(platter, |platter| matches!(platter.trouble, Some(Trouble::Hangs))).unwrap())
            }
            _ => Ok(platter),
        }
    }
}

impl Files for SimulatedDisk {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        let platter = self.platter();
        Ok(platter.names.get(name).map(|file| platter.files[*file].bytes.clone()))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewFile>> {
        let mut platter = self.step()?;
        if platter.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = platter.files.len();
        platter.files.push(Content::default());
        platter.names.insert(name.to_owned(), file);
        drop(platter);
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.step()?;
        let file = platter.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?.names.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut platter = self.step()?;
        platter.synced_names = platter.names.clone();
        Ok(())
    }
}

struct OpenFile {
    disk: SimulatedDisk,
    file: usize,
}

impl NewFile for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.step()?.files[self.file].bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.disk.step()?;
        let file = &mut platter.files[self.file];
        file.synced.clone_from(&file.bytes);
        Ok(())
    }
}
