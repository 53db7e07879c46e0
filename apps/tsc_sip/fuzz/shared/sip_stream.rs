//! SIP over streams.

use tsc_sip::sip::{
    Message,
    stream::{Frame, FramingError, StreamFramer},
};

/// However a stream is cut, the same frames come out; and what comes out can be written and read again.
pub(crate) fn sip_stream(data: &[u8]) {
    // The first byte says how it is cut.
    let Some((step, stream)) = data.split_first() else {
        return;
    };
    let whole = frames(stream, stream.len().max(1));
    let cut = frames(stream, usize::from(*step).max(1));
    // A line end between messages is a pong or the first half of a ping, as it comes.
    let messages = |frames: &[Frame]| -> Vec<Frame> {
        let is_message = |f: &&Frame| !matches!(f, Frame::Ping | Frame::Pong);
        frames.iter().filter(is_message).cloned().collect()
    };
    assert_eq!(messages(&whole.0), messages(&cut.0));
    if let (Err(a), Err(b)) = (whole.1, cut.1) {
        assert_eq!(a, b);
    }
    for frame in messages(&whole.0) {
        if let Frame::Message(message) = frame
            && let Ok(again) = Message::parse(&message.encode())
        {
            let read = frames(&again.encode(), 7);
            assert_eq!(read, (vec![Frame::Message(Box::new(again))], Ok(())));
        }
    }
}

fn frames(stream: &[u8], step: usize) -> (Vec<Frame>, Result<(), FramingError>) {
    let mut framer = StreamFramer::default();
    let mut frames = Vec::new();
    for part in stream.chunks(step) {
        framer.push(part);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(()))
}
