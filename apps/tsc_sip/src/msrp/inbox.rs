//! Messages that are short enough to be kept: gathers the pieces of a chat.

use std::collections::HashMap;

use super::Event;

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Media type.
    pub content_type: String,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// Puts together what a [`Session`](super::Session) hands out. It holds as many messages as a session lets come in at a
/// time, each no longer than [`Config::max_message`](super::Config::max_message).
#[derive(Debug, Default)]
pub struct Inbox(HashMap<String, Text>);

impl Inbox {
    /// Takes an event; gives a message that is complete with it.
    pub fn handle(&mut self, event: Event) -> Option<Text> {
        match event {
            Event::Started {
                message,
                content_type,
                ..
            } => {
                let body = Vec::new();
                self.0.insert(message, Text { content_type, body });
            }
            Event::Data {
                message,
                offset,
                bytes,
            } => {
                let text = self.0.get_mut(&message)?;
                let start = usize::try_from(offset).ok()?;
                let end = start.checked_add(bytes.len())?;
                if text.body.len() < end {
                    text.body.resize(end, 0);
                }
                text.body.get_mut(start..end)?.copy_from_slice(&bytes);
            }
            Event::Received { message, .. } => return self.0.remove(&message),
            Event::Aborted { message } => drop(self.0.remove(&message)),
            Event::Accepted { .. } | Event::Delivered { .. } | Event::Failed { .. } => {}
        }
        None
    }
}
