//! What `tshark` shows, as it prints it in PDML: for each packet its fields in order.

/// A field or protocol: name and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) show: String,
}

/// The packets of a document.
pub(crate) fn packets(document: &str) -> Vec<Vec<Shown>> {
    let mut packets = Vec::new();
    for tag in document.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        if tag == "packet" {
            packets.push(Vec::new());
        } else if let Some(packet) = packets.last_mut()
            && (tag.starts_with("proto ") || tag.starts_with("field "))
        {
            packet.push(Shown {
                name: attribute(tag, "name").unwrap_or_default(),
                show: attribute(tag, "show").unwrap_or_default(),
            });
        }
    }
    packets
}

/// The dissector's part of a packet: one piece for each unit, with what is inside it.
pub(crate) fn units(packet: &[Shown]) -> Vec<&[Shown]> {
    let starts: Vec<_> = (0..packet.len())
        .filter(|at| packet[*at].name == "tsm")
        .collect();
    let ends = starts.iter().skip(1).copied().chain([packet.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &packet[*start..end])
        .collect()
}

/// All values of a field.
pub(crate) fn all<'a>(fields: &'a [Shown], name: &str) -> Vec<&'a str> {
    let named = fields.iter().filter(|field| field.name == name);
    named.map(|field| field.show.as_str()).collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let value = rest.split_once('"')?.0;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#x9;", "\t"),
        ("&amp;", "&"),
    ];
    Some(
        plain
            .iter()
            .fold(value.to_owned(), |text, (from, to)| text.replace(from, to)),
    )
}
