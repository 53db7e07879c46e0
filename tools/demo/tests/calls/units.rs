//! What is in a capture of ours.

use std::{fs::File, path::Path};

use pcap_file::pcapng::{PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use tsc_tpl::{Limits, Unit};

pub(crate) struct Captured {
    pub(crate) control: bool,
    pub(crate) inbound: bool,
    pub(crate) text: String,
}

pub(crate) fn units(path: &Path) -> Vec<Captured> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapNgReader::new(file).unwrap();
    let mut units = Vec::new();
    while let Some(block) = reader.next_block() {
        let Some(packet) = block.unwrap().into_enhanced_packet() else {
            continue;
        };
        let control = packet.interface_id == 1;
        let inbound = packet
            .options
            .iter()
            .any(|option| matches!(option, EnhancedPacketOption::Flags(1)));
        let text = if control {
            let unit = Unit::decode_datagram(&packet.data, &Limits::WIDEST).unwrap();
            unit.to_string()
        } else {
            // Behind the headers of IPv4 and UDP.
            String::from_utf8_lossy(packet.data.get(28..).unwrap_or_default()).into_owned()
        };
        units.push(Captured {
            control,
            inbound,
            text,
        });
    }
    units
}
