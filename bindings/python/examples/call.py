#!/usr/bin/env python3
"""Makes a SIP call through a tunnel: registers, calls the user "echo", sends RTP, counts what comes back, hangs up.

    call.py tls://sbc.example.com:443 --ca ca.pem [--seconds 2]

Only the standard library is needed, and the module `opentsc`, which is generated (docs/bindings.md) and found by PYTHONPATH. It calls the SIP
server that the tunnel server assigns, where tsc_sip_server of this project is to be; another has to know a user "echo" and to
register anybody. What you should see: the tunnel's address, one line for each transaction, and "100 of 100 packets came back".
"""

import argparse
import os
import queue
import re
import sys
import time
from datetime import timedelta

import opentsc

PACKET_TIME = 0.02  # seconds of PCMU in a packet
SAMPLES = 160


class Events(opentsc.TunnelListener):
    """Prints what happens to the tunnel. It is called by a thread of the library."""

    def on_event(self, event):
        if event.is_SUSPENDED():
            print("lost:", event.reason)
        elif event.is_RESUMED():
            print("back over", event.configuration.transport.name)
        elif event.is_SERVICE_CHANGED():
            print(event.service.name, "is in force" if event.enabled else "is not in force")
        elif event.is_DOWN():
            print("down:", event.end.text)


class Media(opentsc.DatagramListener):
    """Counts the packets that come back as they were sent. It is called by a thread of the library."""

    def __init__(self):
        self.came = set()
        self.enough = queue.SimpleQueue()

    def on_datagrams(self, datagrams):
        for datagram in datagrams:
            packet = datagram.payload
            # The echo's headers are its own; what it carries is ours.
            number = int.from_bytes(packet[12:16], "big")
            if packet[12:] == samples(number):
                self.came.add(number)
                self.enough.put(len(self.came))

    def on_end(self, reason):
        self.enough.put(None)


def samples(number):
    """Of a packet: the first of them tell which one it is."""
    return number.to_bytes(4, "big") + bytes((number + i) % 256 for i in range(SAMPLES - 4))


def rtp(number, source):
    """An RTP packet."""
    head = bytes([0x80, 0]) + (number % 0x10000).to_bytes(2, "big") + (number * SAMPLES).to_bytes(4, "big")
    return head + source.to_bytes(4, "big") + samples(number)


def mark():
    """Something that differs from call to call."""
    return os.urandom(6).hex()


class Sip:
    """One user at one server, over one UDP socket inside the tunnel."""

    def __init__(self, tunnel, server, user="dave"):
        self.server = server
        self.socket = tunnel.bind_udp()
        self.local = self.socket.local_address()
        self.domain = f"{server.ip}:{server.port}"
        self.user = f"<sip:{user}@{self.domain}>"
        self.contact = f"<sip:{user}@{self.local.ip}:{self.local.port}>"
        self.tag = mark()

    def send(self, text):
        self.socket.send_to(text.encode(), self.server)

    def request(self, method, target, to, call, sequence, body=""):
        """A request as text."""
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.local.ip}:{self.local.port};branch=z9hG4bK{mark()};rport",
            "Max-Forwards: 70",
            f"From: {self.user};tag={self.tag}",
            f"To: {to}",
            f"Call-ID: {call}@{self.local.ip}",
            f"CSeq: {sequence} {method}",
            f"Contact: {self.contact}",
        ]
        if body:
            lines.append("Content-Type: application/sdp")
        lines += [f"Content-Length: {len(body)}", "", body]
        return "\r\n".join(lines)

    def transaction(self, method, *rest, **body):
        """Sends a request until there is a final response (RFC 3261, 17.1), and gives that."""
        request = self.request(method, *rest, **body)
        wait = 0.5
        deadline = time.monotonic() + 32
        while time.monotonic() < deadline:
            self.send(request)
            again = time.monotonic() + wait
            while (left := again - time.monotonic()) > 0:
                datagram = self.socket.receive(timedelta(seconds=left))
                if datagram is None:
                    break
                response = datagram.payload.decode(errors="replace")
                status = re.match(r"SIP/2\.0 (\d+)", response)
                if not status or not re.search(rf"^CSeq: *\d+ {method}\r$", response, re.M):
                    continue
                if int(status[1]) >= 200:
                    print(f"{method}: {status[1]}")
                    if status[1] != "200":
                        raise SystemExit("no success")
                    return response
            wait = min(2 * wait, 4)
        raise SystemExit(f"{method}: no answer")


def header(message, name):
    """The value of a header."""
    found = re.search(rf"^{name}: *(.*)\r$", message, re.M)
    return found[1] if found else ""


def call(tunnel, server, seconds):
    """Makes the call; whether all packets came back."""
    sip = Sip(tunnel, server)
    home = f"sip:{sip.domain}"
    sip.transaction("REGISTER", home, sip.user, mark(), 1)

    # Media, protected against loss before it is used.
    source = int.from_bytes(os.urandom(4), "big")
    media = Media()
    socket = tunnel.bind_udp()
    socket.set_redundancy(opentsc.Redundancy.ADAPTIVE(most=2))
    socket.set_dscp(46)
    socket.deliver_to(media)

    here = socket.local_address()
    sdp = "\r\n".join([
        "v=0", f"o=- 1 1 IN IP4 {here.ip}", "s=-", f"c=IN IP4 {here.ip}", "t=0 0",
        f"m=audio {here.port} RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=ptime:20", "a=sendrecv", "",
    ])
    echo, call_id = f"sip:echo@{sip.domain}", mark()
    answer = sip.transaction("INVITE", echo, f"<{echo}>", call_id, 1, body=sdp)
    to = header(answer, "To")
    contact = re.search(r"<([^>]+)>", header(answer, "Contact"))
    target = contact[1] if contact else echo
    there = opentsc.Address(
        ip=re.search(r"^c=IN IP4 ([0-9.]+)", answer, re.M)[1],
        port=int(re.search(r"^m=audio (\d+)", answer, re.M)[1]),
    )
    sip.send(sip.request("ACK", target, to, call_id, 1))

    sent = round(seconds / PACKET_TIME)
    begun = time.monotonic()
    for number in range(sent):
        time.sleep(max(0, begun + number * PACKET_TIME - time.monotonic()))
        socket.send_to(rtp(number, source), there)
    # What is still on its way.
    deadline = time.monotonic() + 2
    while len(media.came) < sent and time.monotonic() < deadline:
        try:
            media.enough.get(timeout=0.1)
        except queue.Empty:
            pass
    came = len(media.came)
    print(f"{came} of {sent} packets came back, {100 * (sent - came) / sent:.1f} % lost")
    print("redundancy:", socket.redundancy_status())

    sip.transaction("BYE", target, to, call_id, 2)
    socket.release()
    sip.socket.release()
    return came == sent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", help="such as tls://sbc.example.com:443")
    parser.add_argument("--ca", help="PEM file with who vouches for the server; otherwise the system's")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()

    settings = opentsc.TunnelSettings(
        servers=[options.server],
        trust=opentsc.ServerTrust.PEM_FILE(options.ca) if options.ca else None,
        connect_timeout=timedelta(seconds=10),
        client_info="call.py " + opentsc.version(),
    )
    client = opentsc.Client()
    try:
        tunnel = client.open(settings, Events())
        configuration = tunnel.wait_until_up()
        print("tunnel:", configuration.addresses[0], "over", configuration.transport.name)
        if not configuration.sip_servers:
            raise SystemExit("no SIP server was assigned")
        complete = call(tunnel, configuration.sip_servers[0], options.seconds)
    except opentsc.TscError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    finally:
        # Nothing of the library is left after this.
        client.release()
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
