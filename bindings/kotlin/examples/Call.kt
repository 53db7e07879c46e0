/*
 * Makes a SIP call through a tunnel: registers, calls the user "echo", sends RTP, counts what comes back, hangs up.
 *
 *     kotlin/run-on-jvm.sh tls://sbc.example.com:443 --ca ca.pem [--seconds 2]
 *
 * It calls the SIP server that the tunnel server assigns, where tsc_sip_server of this project is to be; another has to know a user "echo"
 * and to register anybody. What you should see: the tunnel's address, one line for each transaction, and "100 of 100 packets came back".
 */
import java.nio.ByteBuffer
import java.time.Duration
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.random.Random
import kotlin.system.exitProcess
import org.opentsc.Address
import org.opentsc.Client
import org.opentsc.Datagram
import org.opentsc.DatagramListener
import org.opentsc.Redundancy
import org.opentsc.ServerTrust
import org.opentsc.Tunnel
import org.opentsc.TunnelEvent
import org.opentsc.TunnelListener
import org.opentsc.TunnelSettings
import org.opentsc.TscException
import org.opentsc.UdpSocket
import org.opentsc.version

const val PACKET_MILLISECONDS = 20L
const val SAMPLES = 160

/** Prints what happens to the tunnel. It is called by a thread of the library. */
class Events : TunnelListener {
    override fun onEvent(event: TunnelEvent) {
        when (event) {
            is TunnelEvent.Suspended -> println("lost: ${event.reason}")
            is TunnelEvent.Resumed -> println("back over ${event.configuration.transport}")
            is TunnelEvent.ServiceChanged ->
                println("${event.service} ${if (event.enabled) "is in force" else "is not in force"}")
            is TunnelEvent.Down -> println("down: ${event.end.text}")
            else -> {}
        }
    }
}

/** Counts the packets that come back as they were sent. It is called by a thread of the library. */
class Media(expected: Int) : DatagramListener {
    val came: MutableSet<Int> = ConcurrentHashMap.newKeySet()
    val all = CountDownLatch(expected)

    override fun onDatagrams(datagrams: List<Datagram>) {
        for (packet in datagrams.map { it.payload }) {
            if (packet.size != 12 + SAMPLES) continue
            // The echo's headers are its own; what it carries is ours.
            val carried = packet.copyOfRange(12, packet.size)
            val number = ByteBuffer.wrap(carried).getInt()
            if (carried.contentEquals(samples(number)) && came.add(number)) all.countDown()
        }
    }

    override fun onEnd(reason: String) = println("no media any more: $reason")
}

/** Of a packet: the first of them tell which one it is. */
fun samples(number: Int): ByteArray =
    ByteBuffer.allocate(SAMPLES).putInt(number).put(ByteArray(SAMPLES - 4) { (number + it).toByte() }).array()

/** An RTP packet. */
fun rtp(number: Int, source: Int): ByteArray = ByteBuffer.allocate(12 + SAMPLES)
    .putShort(0x8000.toShort()).putShort(number.toShort()).putInt(number * SAMPLES).putInt(source)
    .put(samples(number)).array()

/** Something that differs from call to call. */
fun mark() = Random.nextLong().toULong().toString(16)

/** The value of a header. */
fun header(message: String, name: String) =
    message.lineSequence().firstOrNull { it.startsWith("$name:") }?.substringAfter(':')?.trim() ?: ""

/** One user at one server, over one UDP socket inside the tunnel. */
class Sip(tunnel: Tunnel, private val server: Address, user: String = "erin") {
    val socket: UdpSocket = tunnel.bindUdp()
    private val local = socket.localAddress()
    val domain = "${server.ip}:${server.port}"
    val user = "<sip:$user@$domain>"
    private val contact = "<sip:$user@${local.ip}:${local.port}>"
    private val tag = mark()

    fun send(text: String) = socket.sendTo(text.toByteArray(), server)

    /** A request as text. */
    fun request(method: String, target: String, to: String, call: String, sequence: Int, body: String = ""): String {
        val lines = mutableListOf(
            "$method $target SIP/2.0",
            "Via: SIP/2.0/UDP ${local.ip}:${local.port};branch=z9hG4bK${mark()};rport",
            "Max-Forwards: 70",
            "From: $user;tag=$tag",
            "To: $to",
            "Call-ID: $call@${local.ip}",
            "CSeq: $sequence $method",
            "Contact: $contact",
        )
        if (body.isNotEmpty()) lines += "Content-Type: application/sdp"
        lines += listOf("Content-Length: ${body.length}", "", body)
        return lines.joinToString("\r\n")
    }

    /** Sends a request until there is a final response (RFC 3261, 17.1), and gives that. */
    fun transaction(method: String, request: String): String {
        var wait = 500L
        val deadline = System.nanoTime() + 32_000_000_000
        while (System.nanoTime() < deadline) {
            send(request)
            val again = System.nanoTime() + wait * 1_000_000
            while (System.nanoTime() < again) {
                val left = Duration.ofNanos(maxOf(again - System.nanoTime(), 0))
                val response = socket.receive(left)?.payload?.decodeToString() ?: break
                val status = Regex("^SIP/2\\.0 (\\d+)").find(response)?.groupValues?.get(1)?.toInt() ?: continue
                if (!header(response, "CSeq").endsWith(" $method") || status < 200) continue
                println("$method: $status")
                check(status == 200) { "no success" }
                return response
            }
            wait = minOf(2 * wait, 4000)
        }
        error("$method: no answer")
    }
}

/** Makes the call; whether all packets came back. */
fun call(tunnel: Tunnel, server: Address, seconds: Double): Boolean {
    val sip = Sip(tunnel, server)
    sip.transaction("REGISTER", sip.request("REGISTER", "sip:${sip.domain}", sip.user, mark(), 1))

    // Media, protected against loss before it is used.
    val sent = (seconds * 1000 / PACKET_MILLISECONDS).toInt()
    val media = Media(sent)
    val socket = tunnel.bindUdp()
    socket.setRedundancy(Redundancy.Adaptive(most = 2u))
    socket.setDscp(46u)
    socket.deliverTo(media)

    val here = socket.localAddress()
    val sdp = listOf(
        "v=0", "o=- 1 1 IN IP4 ${here.ip}", "s=-", "c=IN IP4 ${here.ip}", "t=0 0",
        "m=audio ${here.port} RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=ptime:20", "a=sendrecv", "",
    ).joinToString("\r\n")
    val echo = "sip:echo@${sip.domain}"
    val id = mark()
    val answer = sip.transaction("INVITE", sip.request("INVITE", echo, "<$echo>", id, 1, sdp))
    val to = header(answer, "To")
    val target = Regex("<([^>]+)>").find(header(answer, "Contact"))?.groupValues?.get(1) ?: echo
    val ip = Regex("^c=IN IP4 ([0-9.]+)", RegexOption.MULTILINE).find(answer)!!.groupValues[1]
    val port = Regex("^m=audio (\\d+)", RegexOption.MULTILINE).find(answer)!!.groupValues[1]
    val there = Address(ip, port.toUShort())
    sip.send(sip.request("ACK", target, to, id, 1))

    val source = Random.nextInt()
    val begun = System.nanoTime()
    for (number in 0 until sent) {
        val due = begun + number * PACKET_MILLISECONDS * 1_000_000
        TimeUnit.NANOSECONDS.sleep(maxOf(due - System.nanoTime(), 0))
        socket.sendTo(rtp(number, source), there)
    }
    media.all.await(2, TimeUnit.SECONDS) // What is still on its way.
    val came = media.came.size
    println("$came of $sent packets came back, ${"%.1f".format(100.0 * (sent - came) / sent)} % lost")
    println("redundancy: ${socket.redundancyStatus()}")

    sip.transaction("BYE", sip.request("BYE", target, to, id, 2))
    socket.release()
    sip.socket.release()
    return came == sent
}

fun main(arguments: Array<String>) {
    fun option(name: String) = arguments.indexOf(name).takeIf { it >= 0 }?.let { arguments.getOrNull(it + 1) }
    val server = arguments.firstOrNull() ?: run {
        System.err.println("usage: SERVER [--ca FILE] [--seconds SECONDS]")
        exitProcess(2)
    }
    val settings = TunnelSettings(
        servers = listOf(server),
        trust = option("--ca")?.let { ServerTrust.PemFile(it) },
        connectTimeout = Duration.ofSeconds(10),
        clientInfo = "Call.kt ${version()}",
    )
    val client = Client()
    val complete = try {
        val tunnel = client.open(settings, Events())
        val configuration = tunnel.waitUntilUp()
        println("tunnel: ${configuration.addresses.first()} over ${configuration.transport}")
        call(tunnel, configuration.sipServers.first(), option("--seconds")?.toDouble() ?: 2.0)
    } catch (error: TscException) {
        System.err.println(error)
        false
    } finally {
        // Nothing of the library is left after this.
        client.release()
    }
    exitProcess(if (complete) 0 else 1)
}
