/// An account that a job has to look at, and its place in the list of them.
#[derive(Debug, Clone)]
pub struct Due {
    /// The id, as stored.
    pub id: String,
    /// The time that the list is sorted by, in microseconds.
    pub(super) at: i64,
}

impl From<(String, i64)> for Due {
    fn from((id, at): (String, i64)) -> Due {
        Due { id, at }
    }
}
