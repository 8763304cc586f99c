//! Parses the reply to `INFO`.

/// The fields of `INFO` that are needed here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// Identifies the server process: changes with each start.
    pub(super) run_id: String,
    pub(super) is_master: bool,
    /// Keys evicted since the start.
    pub(super) evicted_keys: u64,
    /// `None` if the server does not report it.
    pub(super) eviction_policy: Option<String>,
}

impl ServerInfo {
    /// Returns `None` if `text` lacks the `run_id`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        Some(Self {
            run_id: field("run_id")
                .filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()))?
                .to_owned(),
            is_master: field("role")? == "master",
            evicted_keys: field("evicted_keys").and_then(|count| count.parse().ok()).unwrap_or(0),
            eviction_policy: field("maxmemory_policy").map(ToOwned::to_owned),
        })
    }

    /// Whether the server may evict any key, even one without an expiry.
    pub(super) fn evicts_any_key(&self) -> bool {
        self.eviction_policy.as_deref().is_some_and(|policy| policy.starts_with("allkeys-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_matter_are_read_and_a_text_without_them_is_not_taken() {
        let text = "# Server\r\nrun_id:abc\r\nmulti_run_id:x\r\n# Stats\r\nevicted_keys:7\r\nrole:master\r\nmaxmemory_policy:allkeys-lru\r\n";
        let info = ServerInfo::parse(text).unwrap();
        assert_eq!(
            (&*info.run_id, info.is_master, info.evicted_keys, info.evicts_any_key()),
            ("abc", true, 7, true)
        );
        let replica = ServerInfo::parse("run_id:abc\r\nrole:slave\r\n").unwrap();
        assert!(!replica.is_master && !replica.evicts_any_key() && replica.evicted_keys == 0);
        for text in [
            "",
            "role:master\r\n",
            "run_id:\r\nrole:master\r\n",
            "run_id:a b\r\nrole:master\r\n",
            "run_id:abc\r\n",
        ] {
            assert_eq!(ServerInfo::parse(text), None, "{text:?}");
        }
    }
}
