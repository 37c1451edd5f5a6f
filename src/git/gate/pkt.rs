//! Git's pkt-line format, and the parts of the push protocol that the gate must understand (gitprotocol-pack).
//!
//! What is not understood is refused, not passed on.

use super::super::remote::one_line;

/// The longest pkt-line, its length included.
const LONGEST: usize = 65_520;
/// What of a side-band packet is left for data.
const LONGEST_DATA: usize = LONGEST - 5;

/// One pkt-line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Data(&'a [u8]),
    Flush,
}

/// The bytes are not the push protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("the request ends in the middle")]
    Truncated,
    #[error("a malformed packet length")]
    Length,
    #[error("a malformed command")]
    Command,
    #[error("a signed push (push.gpgSign)")]
    Certificate,
    #[error("push options")]
    Options,
}

/// One ref to be changed, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) old: String,
    pub(super) new: String,
    pub(super) name: String,
}

impl Update {
    pub(super) fn is_delete(&self) -> bool {
        self.new.bytes().all(|byte| byte == b'0')
    }
}

/// What a client asks of `git-receive-pack`, up to the pack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) updates: Vec<Update>,
    pub(super) report_status: bool,
    pub(super) side_band: bool,
}

/// The next packet and how many bytes it takes.
pub(super) fn next(bytes: &[u8]) -> Result<(Packet<'_>, usize), ProtocolError> {
    let digits = bytes.get(..4).ok_or(ProtocolError::Truncated)?;
    let hex = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits).and_then(|digits| std::str::from_utf8(digits).ok());
    let length = hex.and_then(|digits| usize::from_str_radix(digits, 16).ok()).ok_or(ProtocolError::Length)?;
    match length {
        0 => Ok((Packet::Flush, 4)),
        4..=LONGEST => bytes.get(4..length).map(|data| (Packet::Data(data), length)).ok_or(ProtocolError::Truncated),
        _ => Err(ProtocolError::Length),
    }
}

/// The command list at the head of a push. Empty for git's probe of the connection (a lone flush).
pub(super) fn commands(mut bytes: &[u8]) -> Result<Commands, ProtocolError> {
    let mut found = Commands::default();
    loop {
        let (packet, taken) = next(bytes)?;
        bytes = &bytes[taken..];
        let Packet::Data(line) = packet else { return Ok(found) };
        let (line, capabilities) = match line.iter().position(|byte| *byte == 0) {
            Some(at) if found.updates.is_empty() => (&line[..at], &line[at + 1..]),
            Some(_) => return Err(ProtocolError::Command),
            None => (line, &[][..]),
        };
        if line.starts_with(b"push-cert") {
            return Err(ProtocolError::Certificate);
        }
        let line = std::str::from_utf8(line).map_err(|_| ProtocolError::Command)?;
        let line = line.strip_suffix('\n').unwrap_or(line);
        if line.strip_prefix("shallow ").is_some_and(is_object_id) && found.updates.is_empty() {
            continue;
        }
        for word in capabilities.split(u8::is_ascii_whitespace) {
            match word {
                b"report-status" | b"report-status-v2" => found.report_status = true,
                b"side-band-64k" => found.side_band = true,
                b"push-options" => return Err(ProtocolError::Options),
                _ => {}
            }
        }
        let mut words = line.splitn(3, ' ');
        let (old, new, name) = (words.next(), words.next(), words.next());
        match (old, new, name) {
            (Some(old), Some(new), Some(name)) if is_object_id(old) && is_object_id(new) && is_ref_name(name) => {
                found.updates.push(Update { old: old.to_owned(), new: new.to_owned(), name: name.to_owned() });
            }
            _ => return Err(ProtocolError::Command),
        }
    }
}

/// What became of a push, as the client's git reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Each ref with `None` for done, or why not.
    pub(super) refs: Vec<(String, Option<String>)>,
    /// Lines that git shows behind `remote:`.
    pub(super) remarks: Vec<String>,
}

impl Report {
    /// In the form that the client asked for. Without `report-status` there is no form.
    pub(super) fn encode(&self, asked: &Commands) -> Vec<u8> {
        let mut status = Vec::new();
        line(&mut status, b"unpack ok\n");
        for (name, refused) in &self.refs {
            let text = refused.as_ref().map_or_else(|| format!("ok {name}\n"), |reason| format!("ng {name} {}\n", one_line(reason)));
            line(&mut status, text.as_bytes());
        }
        status.extend_from_slice(b"0000");
        if !asked.report_status {
            status.clear();
        }
        if !asked.side_band {
            return status;
        }
        let mut out = Vec::new();
        for remark in &self.remarks {
            band(&mut out, 2, format!("{}\n", one_line(remark)).as_bytes());
        }
        band(&mut out, 1, &status);
        out.extend_from_slice(b"0000");
        out
    }

    /// Reads what `git receive-pack` answered to the same request.
    pub(super) fn decode(answer: &[u8], asked: &Commands) -> Result<Self, ProtocolError> {
        let mut report = Self::default();
        let mut status = Vec::new();
        if asked.side_band {
            let mut progress = Vec::new();
            let mut rest = answer;
            while !rest.is_empty() {
                let (packet, taken) = next(rest)?;
                rest = &rest[taken..];
                match packet {
                    Packet::Data([1, data @ ..]) => status.extend_from_slice(data),
                    Packet::Data([_, data @ ..]) => progress.extend_from_slice(data),
                    Packet::Data([]) => return Err(ProtocolError::Command),
                    Packet::Flush => break,
                }
            }
            report.remarks = String::from_utf8_lossy(&progress).lines().map(one_line).collect();
        } else {
            status.extend_from_slice(answer);
        }
        let mut rest = &status[..];
        while !rest.is_empty() {
            let (packet, taken) = next(rest)?;
            rest = &rest[taken..];
            let Packet::Data(data) = packet else { break };
            let text = String::from_utf8_lossy(data);
            if let Some(name) = text.trim_end().strip_prefix("ok ") {
                report.refs.push((name.to_owned(), None));
            } else if let Some((name, reason)) = text.trim_end().strip_prefix("ng ").and_then(|text| text.split_once(' ')) {
                report.refs.push((name.to_owned(), Some(reason.to_owned())));
            }
        }
        Ok(report)
    }
}

/// Appends one pkt-line. Longer data than fits is cut.
pub(super) fn line(out: &mut Vec<u8>, data: &[u8]) {
    let data = &data[..data.len().min(LONGEST - 4)];
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

fn band(out: &mut Vec<u8>, number: u8, data: &[u8]) {
    for part in data.chunks(LONGEST_DATA) {
        let mut packet = vec![number];
        packet.extend_from_slice(part);
        line(out, &packet);
    }
}

fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_ref_name(name: &str) -> bool {
    name.starts_with("refs/") && name.len() < 1024 && name.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn request(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for text in lines {
            line(&mut out, text.as_bytes());
        }
        out.extend_from_slice(b"0000PACK....");
        out
    }

    #[test]
    fn the_command_list_of_a_push_is_read() {
        let bytes = request(&[
            &format!("{ZERO} {A} refs/heads/x\0 report-status-v2 side-band-64k agent=git/2"),
            &format!("{A} {ZERO} refs/tags/v1"),
        ]);
        let found = commands(&bytes).unwrap();
        let updates = vec![
            Update { old: ZERO.into(), new: A.into(), name: "refs/heads/x".into() },
            Update { old: A.into(), new: ZERO.into(), name: "refs/tags/v1".into() },
        ];
        assert_eq!(found, Commands { updates, report_status: true, side_band: true });
        assert!(found.updates[1].is_delete());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert_eq!(commands(b""), Err(ProtocolError::Truncated));
        assert_eq!(commands(b"zzzz"), Err(ProtocolError::Length));
        assert_eq!(commands(b"0002"), Err(ProtocolError::Length));
        assert_eq!(commands(b"+00a"), Err(ProtocolError::Length));
        assert_eq!(commands(&request(&["push-cert\0report-status"])), Err(ProtocolError::Certificate));
        assert_eq!(commands(&request(&["hello"])), Err(ProtocolError::Command));
        assert_eq!(commands(&request(&[&format!("{A} {A} HEAD")])), Err(ProtocolError::Command));
        assert_eq!(commands(&request(&[&format!("{A} {A} refs/heads/a\n{A} {A} refs/heads/main")])), Err(ProtocolError::Command));
        assert_eq!(commands(&request(&[&format!("{A} {A} refs/heads/x\0push-options")])), Err(ProtocolError::Options));
        assert_eq!(commands(b"0000").unwrap(), Commands::default());
    }

    #[test]
    fn a_report_survives_its_own_encoding() {
        let report = Report {
            refs: vec![("refs/heads/x".into(), None), ("refs/heads/main".into(), Some("no".into()))],
            remarks: vec!["a".into(), "b".into()],
        };
        let asked = Commands { updates: Vec::new(), report_status: true, side_band: true };
        assert_eq!(Report::decode(&report.encode(&asked), &asked).unwrap(), report);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_fail_badly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = commands(&bytes);
            let asked = Commands { updates: Vec::new(), report_status: true, side_band: true };
            let _ = Report::decode(&bytes, &asked);
        }
    }
}
