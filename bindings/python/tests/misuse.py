"""Misuse of each object is a typed exception and nothing else: misuse.py SERVER CA-FILE. Run by the crate's test."""

import gc
import os
import sys
import tempfile
import threading
import time
import unittest
from datetime import timedelta

import opentsc
from opentsc import Address, TscError

SERVER, CA = sys.argv[1:3]
SOON = timedelta(milliseconds=50)
LIMIT = timedelta(seconds=10)


def settings(**changes):
    chosen = {"servers": [SERVER], "trust": opentsc.ServerTrust.PEM_FILE(CA), "connect_timeout": LIMIT}
    return opentsc.TunnelSettings(**(chosen | changes))


class Recorder(opentsc.TunnelListener):
    """Keeps the names of events."""

    def __init__(self, action=None):
        self.names = []
        self.over = threading.Event()
        self.action = action

    def on_event(self, event):
        self.names.append(type(event).__name__)
        if event.is_DOWN():
            self.end = event.end
            self.over.set()
        elif event.is_UP() and self.action:
            self.action()


class Collector(opentsc.DatagramListener):
    """Keeps datagrams; the first one it throws back."""

    def __init__(self):
        self.came = []
        self.some = threading.Event()

    def on_datagrams(self, datagrams):
        self.came += datagrams
        if len(self.came) == len(datagrams):
            raise ValueError("a listener that fails")
        self.some.set()

    def on_end(self, reason):
        pass


def threads():
    """Names of the library's threads."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="ascii") as comm:
                names.append(comm.read().strip())
        except OSError:
            pass  # It has just ended.
    return [name for name in names if name.startswith("tsc")]


def until(condition, what):
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what)
        time.sleep(0.01)


class Settings(unittest.TestCase):
    def setUp(self):
        self.client = opentsc.Client()
        self.addCleanup(self.client.release)

    def refused(self, error, **changes):
        with self.assertRaises(error) as caught:
            self.client.open(settings(**changes))
        self.assertTrue(str(caught.exception))
        return str(caught.exception)

    def test_what_cannot_be_used_is_told_at_once(self):
        invalid = TscError.InvalidArgument
        self.refused(invalid, servers=[])
        self.refused(invalid, servers=["http://host:1"])
        self.refused(invalid, servers=["tls://host:99999"])
        self.refused(invalid, outer_mark=opentsc.OuterMark.FIXED(dscp=64))
        self.refused(invalid, proxy=opentsc.HttpProxy(url="socks5://host:1"))
        self.refused(TscError.Credentials, trust=opentsc.ServerTrust.PEM_FILE("/nowhere"))
        self.refused(TscError.Credentials, trust=opentsc.ServerTrust.PEM(b"no certificate"))
        with self.assertRaises(TscError.Credentials):
            opentsc.Identity.of_pem(b"none", b"none")
        with self.assertRaises(TscError.Credentials):
            opentsc.Identity.of_files("/nowhere", "/nowhere")

    def test_secrets_are_never_shown(self):
        secret = opentsc.Secret.of_text("wonderland")
        proxy = opentsc.HttpProxy(url="http://127.0.0.1:9", user="alice", password=secret)
        shown = f"{settings(auth_token=secret, proxy=proxy)!r} {settings(proxy=proxy)} {secret!r} {secret}"
        self.assertIn("alice", shown)
        self.assertNotIn("wonderland", shown)
        proxy = opentsc.HttpProxy(url="http://alice:wonderland@127.0.0.1:9")
        self.assertNotIn("wonderland", self.refused(TscError.InvalidArgument, proxy=proxy))

    def test_who_cannot_be_reached_or_trusted_is_told(self):
        recorder = Recorder()
        tunnel = self.client.open(settings(servers=["tcp://127.0.0.1:1"]), recorder)
        with self.assertRaises(TscError.CannotConnect):
            tunnel.wait_until_up(LIMIT)
        self.assertTrue(recorder.over.wait(10))
        self.assertEqual(recorder.end.cause, opentsc.EndCause.CANNOT_CONNECT)
        self.assertEqual(tunnel.state(), opentsc.TunnelState.OVER)
        with self.assertRaises(TscError.CannotConnect):
            tunnel.bind_udp()
        tls = SERVER.replace("udp://", "tls://")
        tunnel = self.client.open(settings(servers=[tls], server_name="other.example.com"))
        with self.assertRaises(TscError.Certificate):
            tunnel.wait_until_up(LIMIT)


class Sockets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = opentsc.Client()
        cls.tunnel = cls.client.open(settings())
        cls.configuration = cls.tunnel.wait_until_up(LIMIT)
        cls.own = cls.configuration.addresses[0]

    @classmethod
    def tearDownClass(cls):
        cls.client.release()

    def test_addresses_that_are_none_are_refused(self):
        for ip in ["", "host", "10.64.0", "[::1]"]:
            with self.assertRaises(TscError.InvalidArgument):
                self.tunnel.bind_udp(0, ip)
            with self.assertRaises(TscError.InvalidArgument):
                self.tunnel.connect_tcp(Address(ip=ip, port=1))
        with self.assertRaises(TscError.AddressNotAvailable):
            self.tunnel.bind_udp(0, "192.0.2.1")
        with self.assertRaises(ValueError):
            self.tunnel.bind_udp(65536)
        socket = self.tunnel.bind_udp()
        with self.assertRaises(TscError.AddressInUse):
            self.tunnel.bind_udp(socket.local_address().port)
        for ip in ["127.0.0.1", "224.0.0.1", "::1"]:
            with self.assertRaises(TscError.InvalidArgument):
                socket.send_to(b"nowhere", Address(ip=ip, port=5))
        with self.assertRaises(TscError.InvalidArgument):
            socket.set_dscp(64)
        with self.assertRaises(TscError.InvalidArgument):
            socket.set_redundancy(opentsc.Redundancy.COPIES(200))
        with self.assertRaises(TscError.MessageTooLong):
            socket.send_to(bytes(70000), Address(ip="10.64.0.77", port=5))
        with self.assertRaises(TscError.NotConnected):
            socket.send(b"to whom")
        with self.assertRaises(TscError.NotConnected):
            socket.peer_address()
        with self.assertRaises(TypeError):
            socket.send("a text")

    def test_what_waits_has_a_limit_and_ends_with_its_socket(self):
        socket = self.tunnel.bind_udp()
        self.assertIsNone(socket.receive(SOON))
        listener = self.tunnel.listen_tcp()
        self.assertIsNone(listener.accept(SOON))
        outcomes = []

        def wait(call):
            try:
                outcomes.append(call())
            except TscError as error:
                outcomes.append(type(error))

        waiting = [threading.Thread(target=wait, args=[call]) for call in (socket.receive, listener.accept)]
        for thread in waiting:
            thread.start()
        socket.release()
        listener.release()
        for thread in waiting:
            thread.join(10)
        self.assertEqual(outcomes, [TscError.Released] * 2)

    def test_closed_sockets_answer_all_calls_with_an_exception(self):
        socket = self.tunnel.bind_udp()
        port = socket.local_address().port
        there = Address(ip=self.own, port=port)
        socket.release()
        socket.release()
        for call in [
            socket.local_address, socket.peer_address, socket.receive, socket.redundancy_status,
            socket.wait_until_encrypted, socket.peer_packets, socket.media_quality,
            lambda: socket.connect(there), lambda: socket.send(b""), lambda: socket.send_to(b"", there),
            lambda: socket.deliver_to(Collector()), lambda: socket.set_peer(True), lambda: socket.set_dscp(1),
            lambda: socket.set_redundancy(opentsc.Redundancy.OFF()),
            lambda: socket.set_encryption(opentsc.Encryption.ONLY),
            lambda: socket.set_tunnel_transport(opentsc.TunnelTransport.MAIN),
            lambda: socket.watch_media(opentsc.MediaWatch.DETECT()),
        ]:
            with self.assertRaises(TscError.Released):
                call()
        # The port is free again.
        self.tunnel.bind_udp(port).release()

    def test_a_listener_gets_datagrams_also_after_it_has_failed(self):
        one, other = self.tunnel.bind_udp(), self.tunnel.bind_udp()
        collector = Collector()
        other.deliver_to(collector)
        with self.assertRaises(TscError.InvalidArgument):
            other.deliver_to(collector)
        with self.assertRaises(TscError.InvalidArgument):
            other.receive(SOON)
        one.connect(other.local_address())
        one.send(b"first")
        until(lambda: collector.came, "the first came")
        one.send(b"second")
        self.assertTrue(collector.some.wait(10))
        self.assertEqual([datagram.payload for datagram in collector.came], [b"first", b"second"])
        self.assertEqual(collector.came[0].sender, one.local_address())
        one.release()
        other.release()

    def test_bytes_go_through_tcp_and_its_end_is_seen(self):
        listener = self.tunnel.listen_tcp()
        stream = self.tunnel.connect_tcp(listener.local_address())
        other = listener.accept(LIMIT)
        self.assertEqual(other.peer_address(), stream.local_address())
        self.assertIsNone(other.read(10, SOON))
        with self.assertRaises(TscError.InvalidArgument):
            other.read(0)
        stream.write(b"hello", LIMIT)
        self.assertEqual(other.read(100, LIMIT), b"hello")
        stream.shutdown_write()
        self.assertEqual(other.read(100, LIMIT), b"")
        with self.assertRaises(TscError.ConnectionReset):
            stream.write(b"too late", LIMIT)
        # Nobody reads: what has no room takes too long.
        with self.assertRaises(TscError.TimedOut):
            other.write(bytes(8_000_000), SOON)
        other.abort()
        for call in [other.local_address, other.peer_address, other.shutdown_write, lambda: other.read(1)]:
            with self.assertRaises(TscError.Released):
                call()
        with self.assertRaises(TscError.ConnectionReset):
            while stream.read(100_000, LIMIT):
                pass
        port = listener.local_address().port
        listener.release()
        with self.assertRaises(TscError.Released):
            listener.accept()
        with self.assertRaises(TscError.ConnectionRefused):
            self.tunnel.connect_tcp(Address(ip=self.own, port=port))

    def test_names_without_a_server_for_them_are_not_found(self):
        with self.assertRaises(TscError.NotFound):
            self.tunnel.lookup_host("host.example.com", 1)
        self.assertEqual(self.tunnel.lookup_host("192.0.2.1", 5), [Address(ip="192.0.2.1", port=5)])

    def test_a_capture_begins_and_ends_at_any_time(self):
        self.assertIsNone(self.tunnel.stop_trace())
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "trace.pcapng")
            for wrong in [
                opentsc.TraceSettings(path=os.path.join(directory, "none", "trace.pcapng")),
                opentsc.TraceSettings(
                    path=path, redaction=opentsc.Redaction.SIP, insecure_decryption_secrets=True
                ),
            ]:
                with self.assertRaises(TscError.InvalidArgument):
                    self.tunnel.start_trace(wrong)
            self.assertFalse(os.path.exists(path))
            self.tunnel.start_trace(opentsc.TraceSettings(path=path, outer=True))
            other = self.client.open(settings())
            other.wait_until_up(LIMIT)
            far = other.bind_udp()
            self.tunnel.bind_udp().send_to(b"what is captured", far.local_address())
            self.assertEqual(far.receive(LIMIT).payload, b"what is captured")
            stats = self.tunnel.stop_trace()
            self.assertGreaterEqual(stats.written, 2)
            self.assertEqual(stats.dropped, 0)
            # Inside, and outside, where this transport hides nothing.
            with open(path, "rb") as file:
                self.assertEqual(file.read().count(b"what is captured"), 2)
            other.release()
            self.assertIsNone(self.tunnel.stop_trace())

    def test_hints_are_taken(self):
        self.tunnel.set_activity(opentsc.Activity.BACKGROUND)
        self.tunnel.set_activity(opentsc.Activity.FOREGROUND)
        self.tunnel.set_network_available(True)
        self.tunnel.network_changed()
        self.assertEqual(self.tunnel.state(), opentsc.TunnelState.OPEN)
        self.assertIsNone(self.tunnel.end())
        self.assertEqual(self.tunnel.local_ip_for(Address(ip="192.0.2.1", port=5)), self.own)


class Ends(unittest.TestCase):
    def test_a_released_tunnel_answers_all_calls_with_an_exception(self):
        client = opentsc.Client()
        recorder = Recorder()
        tunnel = client.open(settings(), recorder)
        tunnel.wait_until_up(LIMIT)
        socket = tunnel.bind_udp()
        waiting = threading.Thread(target=lambda: self.assertRaises(TscError.Released, socket.receive))
        waiting.start()
        tunnel.release()
        waiting.join(10)
        self.assertFalse(waiting.is_alive())
        tunnel.release()
        self.assertTrue(recorder.over.wait(10))
        self.assertEqual(recorder.end.cause, opentsc.EndCause.RELEASED)
        self.assertEqual(recorder.end.code, 0)
        self.assertEqual(tunnel.state(), opentsc.TunnelState.RELEASED)
        there = Address(ip="10.64.0.9", port=5)
        for call in [
            tunnel.wait_until_up, tunnel.configuration, tunnel.end, tunnel.bind_udp, tunnel.listen_tcp,
            tunnel.network_changed, tunnel.peer_packets, tunnel.stop_trace, lambda: tunnel.connect_tcp(there),
            lambda: tunnel.start_trace(opentsc.TraceSettings(path="/nowhere/trace.pcapng")),
            lambda: tunnel.lookup_host("host", 1), lambda: tunnel.local_ip_for(there),
            lambda: tunnel.set_network_available(False), lambda: tunnel.set_activity(opentsc.Activity.BACKGROUND),
            lambda: socket.send_to(b"", there), socket.local_address, socket.receive,
        ]:
            with self.assertRaises(TscError.Released):
                call()
        client.release()
        with self.assertRaises(TscError.Released):
            client.open(settings())

    def test_nothing_of_the_library_is_left_when_all_is_released(self):
        until(lambda: not threads(), f"others have ended: {threads()}")
        client = opentsc.Client()
        tunnels = [client.open(settings(), Recorder()) for _ in range(3)]
        for tunnel in tunnels:
            tunnel.wait_until_up(LIMIT)
            tunnel.bind_udp().deliver_to(Collector())
        self.assertTrue(threads())
        client.release()
        until(lambda: not threads(), f"all threads end: {threads()}")

    def test_what_is_only_let_go_is_released_as_well(self):
        recorder = Recorder()
        client = opentsc.Client()
        tunnel = client.open(settings(), recorder)
        tunnel.wait_until_up(LIMIT)
        socket = tunnel.bind_udp()
        del tunnel, client
        gc.collect()
        # Its socket holds it.
        self.assertIsNone(socket.receive(SOON))
        self.assertFalse(recorder.over.is_set())
        del socket
        gc.collect()
        self.assertTrue(recorder.over.wait(10))
        self.assertEqual(recorder.end.text, "released")
        until(lambda: not threads(), f"all threads end: {threads()}")

    def test_a_listener_may_release_what_it_listens_to(self):
        client = opentsc.Client()
        recorder = Recorder(client.release)
        tunnel = client.open(settings(), recorder)
        self.assertTrue(recorder.over.wait(10))
        self.assertEqual(tunnel.state(), opentsc.TunnelState.RELEASED)
        # Whoever releases again waits for the threads as well.
        client.release()
        until(lambda: not threads(), f"all threads end: {threads()}")

    def test_a_tunnel_that_is_being_opened_can_be_released(self):
        client = opentsc.Client()
        # Nobody answers there.
        tunnel = client.open(settings(servers=["udp://192.0.2.1:9"]))
        self.assertEqual(tunnel.state(), opentsc.TunnelState.OPENING)
        with self.assertRaises(TscError.NotUp):
            tunnel.bind_udp()
        # What is told of the host waits until the tunnel is up.
        tunnel.set_network_available(True)
        tunnel.network_changed()
        tunnel.set_activity(opentsc.Activity.BACKGROUND)
        with self.assertRaises(TscError.TimedOut):
            tunnel.wait_until_up(SOON)
        begun = time.monotonic()
        tunnel.release(LIMIT)
        client.release()
        self.assertLess(time.monotonic() - begun, 8)
        until(lambda: not threads(), f"all threads end: {threads()}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
