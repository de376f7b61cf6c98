//! The names of users and groups that entries use, as they were when the configuration was loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

/// Names by id. An id can have several names, and a name that no entry uses is not here: nothing on the request path ever
/// asks the system's name service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// User names by uid.
    pub users: BTreeMap<u32, Vec<Arc<str>>>,
    /// Group names by gid.
    pub groups: BTreeMap<u32, Vec<Arc<str>>>,
}

impl Accounts {
    /// The names of a user, none where no entry uses one.
    #[must_use]
    pub fn user_names(&self, uid: u32) -> &[Arc<str>] {
        self.users.get(&uid).map_or(&[], Vec::as_slice)
    }

    /// The names of a group, none where no entry uses one.
    #[must_use]
    pub fn group_names(&self, gid: u32) -> &[Arc<str>] {
        self.groups.get(&gid).map_or(&[], Vec::as_slice)
    }
}
