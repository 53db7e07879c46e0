//! The command line.

use std::path::PathBuf;

use clap::Parser;
use tsc_tpl::{Limits, registry};

use crate::report::Style;

/// Shows what TSCF tunnels carry: control messages, inner IP packets and data frames, from hex or from a
/// capture file, as text or JSON.
#[derive(Debug, Parser)]
#[command(version, after_long_help = TEACHING)]
pub(crate) struct Arguments {
    /// Bytes in hex, or - to read hex from standard input. Blanks, line breaks, 0x, \x, commas and colons are
    /// skipped, as are the offsets and text columns of xxd, hexdump -C and tcpdump -x, and # comments.
    /// Blank lines separate datagrams
    #[arg(
        value_name = "HEX",
        required_unless_present = "pcap",
        conflicts_with = "pcap"
    )]
    pub(crate) hex: Vec<String>,

    /// Read a pcap or pcapng file instead; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,

    /// The hex is a piece of a stream (TCP, TLS): any number of units, one after the other
    #[arg(long, conflicts_with = "pcap")]
    pub(crate) stream: bool,

    /// In a capture of the outside: the server's port, may be given several times. UDP payloads are
    /// decoded as datagrams, TCP payloads as streams
    #[arg(
        long = "port",
        value_name = "N",
        requires = "pcap",
        conflicts_with = "hex"
    )]
    pub(crate) ports: Vec<u16>,

    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,

    /// Longest inner packet that is accepted, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = registry::MAX_INNER_MTU,
          value_parser = clap::value_parser!(u16).range(i64::from(registry::MIN_INNER_MTU_IPV4)..))]
    pub(crate) inner_mtu: u16,

    /// Show resume keys, tags, cookies, tokens and unknown values in hex instead of hiding them
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

impl Arguments {
    pub(crate) const fn limits(&self) -> Limits {
        Limits::new(self.inner_mtu)
    }

    pub(crate) const fn style(&self) -> Style {
        Style {
            json: self.json,
            show_secrets: self.show_secrets,
        }
    }
}

const TEACHING: &str = "\
Examples:
  A Keepalive:
      tsc-decode 10 07 0000 0040000000000001 0000000b
  Its bytes from a file, by way of xxd:
      xxd message.bin | tsc-decode -
  What a TCP connection carried, as JSON:
      tsc-decode --stream --json - < stream.hex
  A capture that tsc-server or an application wrote (interfaces \"inner\" and \"control\";
  what \"outer\" has is shown with --port):
      tsc-decode --pcap tunnel.pcapng
  A capture of the outside made by tcpdump, of a server that listens on 5060 without encryption:
      tcpdump -w - port 5060 | tsc-decode --pcap - --port 5060

What a capture's packets are taken for, by link type:
  147 (USER0)                      one unit
  101, 228, 229 (raw IP)           one inner packet; with --port an outer packet; in our captures what
                                   the name of the interface says
  0, 1, 113, 276 (BSD loopback,    outer packets; --port is needed
  Ethernet, Linux cooked 1 and 2)
TLS and DTLS are recognised and not decoded, nor is STUN other than Binding. TCP is put in order within small bounds; after a gap
the rest of that direction is left out.

Exit codes:
  0  all was decoded (what is not ours to read apart)
  1  something was malformed, cut or lost
  2  wrong use, or a file that cannot be read

JSON: one object per line. Fields that do not apply are absent.
  index        number of the object, from 1
  frame        number of the packet in the capture, from 1
  time         seconds since 1970 with nine digits, a string
  direction    \"in\" or \"out\", if the capture says so
  outer        {transport: \"udp\" or \"tcp\", source, destination}: \"address:port\"
  offset       where in the stream the unit begins, in bytes
  kind         \"control\", \"ip\", \"redundancy\", \"reserved\", \"stun\"; \"error\": no unit; \"opaque\": not ours to
               read
  ok           whether it is without error
  length       in bytes
  error        what is wrong
  control      {type, type_code, tsid, sequence, tlvs, answer}: tlvs is a list of {type, type_code, length,
               value, error}, all values are text; answer is the response code for a malformed request
  ip           {version, source, destination, protocol, source_port, destination_port, fragment}
  redundancy   {entries: [{sequence, length, ip}]}, newest first
  reserved     {frame: \"compressed_short\", \"compressed_long\" or \"extension\", index, payload_length}
  stun         {type: \"request\", \"indication\" or \"success\", transaction, fingerprint, seen}: seen is the address of a
               success
  opaque       \"tls\", \"dtls\" or \"stun\"
";
