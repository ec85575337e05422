//! The queue of expected responses, for streams that we edit.
//!
//! Between a client's messages we send some of our own (a Parse that this server lacks), and leave some out (a Parse that
//! it already has). The queue says, for each response in order, whether the server's is passed on, dropped, or made here.
//! Streams that are relayed as they are need no queue.

use std::collections::VecDeque;

use crate::message;

/// The response to one message, in the order of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// ParseComplete of the client's Parse. `statement`: known to the server under this number if it succeeds.
    Parse {
        statement: Option<u32>,
    },
    /// ParseComplete of a Parse that we put in.
    OurParse {
        statement: Option<u32>,
    },
    Bind,
    /// CloseComplete of a portal.
    Close,
    /// CloseComplete of an eviction of ours.
    OurClose {
        statement: u32,
    },
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    DescribePortal,
    Execute,
    Sync,
    /// A message that we left out: its response is made here.
    LocalParse,
    LocalClose,
}

/// What is to happen with a response message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
}

/// What a server was told and, after an error, has not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It was not told of this statement.
    Parse(u32),
    /// It still has this one.
    Close(u32),
}

/// Expected responses, and which statements an error has thrown away.
#[derive(Debug, Default)]
pub struct Replies {
    queue: VecDeque<Reply>,
    /// After an error whose Sync is still to be sent: the server ignores what comes before it.
    skipping: bool,
    /// There was an error.
    pub failed: bool,
    /// So many of the client's Parse and Close messages for named statements have succeeded.
    pub named: usize,
    /// What was skipped for it, in order: to be taken back from its end.
    pub undone: Vec<Undone>,
}

impl Replies {
    pub fn push(&mut self, reply: Reply) {
        if self.skipping && reply != Reply::Sync {
            return self.lose(reply);
        }
        self.skipping = false;
        self.queue.push_back(reply);
    }

    /// Whether the server ignores whatever comes before a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn clear(&mut self) {
        self.queue.clear();
    }

    /// Appends the responses that are due without the server.
    pub fn make_due(&mut self, out: &mut Vec<u8>) {
        while let Some(reply) = self.queue.front() {
            match reply {
                Reply::LocalParse => out.extend_from_slice(&message::PARSE_COMPLETE),
                Reply::LocalClose => out.extend_from_slice(&message::CLOSE_COMPLETE),
                _ => return,
            }
            self.named += 1;
            self.queue.pop_front();
        }
    }

    /// A response of type `tag` arrives. Call [`Self::make_due`] first.
    pub fn on_response(&mut self, tag: u8) -> Fate {
        if tag == b'E' {
            self.skip_to_sync();
            return Fate::Pass;
        }
        let Some(head) = self.queue.front() else { return Fate::Pass };
        let (completes, fate) = match (head, tag) {
            (Reply::Parse { .. }, b'1') | (Reply::Bind, b'2') | (Reply::Close, b'3') => (true, Fate::Pass),
            (Reply::OurParse { .. }, b'1') | (Reply::OurClose { .. }, b'3') => (true, Fate::Drop),
            (Reply::DescribeStatement | Reply::DescribePortal, b'T' | b'n') => (true, Fate::Pass),
            (Reply::Execute, b'C' | b'I' | b's') => (true, Fate::Pass),
            (Reply::Sync, b'Z') => (true, Fate::Pass),
            _ => (false, Fate::Pass),
        };
        if completes {
            self.named += usize::from(matches!(head, Reply::Parse { statement: Some(_) }));
            self.queue.pop_front();
        }
        fate
    }

    /// After an error the server ignores everything up to Sync.
    fn skip_to_sync(&mut self) {
        self.failed = true;
        while let Some(&reply) = self.queue.front() {
            if reply == Reply::Sync {
                return;
            }
            self.lose(reply);
            self.queue.pop_front();
        }
        self.skipping = true;
    }

    fn lose(&mut self, reply: Reply) {
        match reply {
            Reply::Parse { statement } | Reply::OurParse { statement } => {
                self.undone.extend(statement.map(Undone::Parse));
            }
            Reply::OurClose { statement } => self.undone.push(Undone::Close(statement)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(replies: &mut Replies, tags: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &tag in tags {
            replies.make_due(&mut out);
            if replies.on_response(tag) == Fate::Pass {
                crate::message::frame(&mut out, tag, |_| {});
            }
        }
        replies.make_due(&mut out);
        crate::frame::Frames::new(&out).map(|frame| frame.expect("valid").tag).collect()
    }

    #[test]
    fn a_parse_of_ours_is_not_seen_by_the_client() {
        let mut replies = Replies::default();
        for reply in [Reply::OurParse { statement: Some(1) }, Reply::Bind, Reply::Execute, Reply::Sync] {
            replies.push(reply);
        }
        assert_eq!(run(&mut replies, b"12DCZ"), b"2DCZ");
        assert!(replies.is_empty() && replies.undone.is_empty());
    }

    #[test]
    fn a_parse_that_was_left_out_is_answered_in_its_place() {
        let mut replies = Replies::default();
        for reply in [
            Reply::Bind,
            Reply::Execute,
            Reply::LocalParse,
            Reply::Bind,
            Reply::Execute,
            Reply::LocalClose,
            Reply::Sync,
        ] {
            replies.push(reply);
        }
        assert_eq!(run(&mut replies, b"2C2CZ"), b"2C12C3Z");
    }

    #[test]
    fn an_error_skips_to_sync_and_names_what_is_lost() {
        let mut replies = Replies::default();
        for reply in [
            Reply::Parse { statement: Some(4) },
            Reply::OurClose { statement: 9 },
            Reply::LocalParse,
            Reply::Bind,
            Reply::Execute,
            Reply::Sync,
            Reply::Bind,
            Reply::Sync,
        ] {
            replies.push(reply);
        }
        assert_eq!(run(&mut replies, b"EZ2Z"), b"EZ2Z");
        assert_eq!(replies.undone, [Undone::Parse(4), Undone::Close(9)]);
    }

    #[test]
    fn what_is_sent_between_an_error_and_its_sync_has_no_response() {
        let mut replies = Replies::default();
        replies.push(Reply::LocalParse);
        replies.push(Reply::Bind);
        assert_eq!(run(&mut replies, b"E"), b"1E");
        for reply in
            [Reply::LocalParse, Reply::Parse { statement: Some(7) }, Reply::LocalClose, Reply::Sync, Reply::LocalParse]
        {
            replies.push(reply);
        }
        assert_eq!(run(&mut replies, b"Z"), b"Z1");
        assert_eq!((replies.failed, replies.undone), (true, vec![Undone::Parse(7)]));
    }

    #[test]
    fn counts_the_names_that_were_made_and_freed() {
        let mut replies = Replies::default();
        for reply in [
            Reply::LocalParse,
            Reply::Parse { statement: Some(1) },
            Reply::Parse { statement: None },
            Reply::LocalClose,
            Reply::Bind,
            Reply::LocalClose,
            Reply::Sync,
        ] {
            replies.push(reply);
        }
        run(&mut replies, b"11EZ");
        assert_eq!((replies.failed, replies.named), (true, 3));
    }

    #[test]
    fn describing_a_statement_takes_two_messages() {
        let mut replies = Replies::default();
        for reply in [Reply::DescribeStatement, Reply::LocalClose, Reply::Sync] {
            replies.push(reply);
        }
        assert_eq!(run(&mut replies, b"tTZ"), b"tT3Z");
    }
}
