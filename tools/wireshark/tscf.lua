-- TSCF tunnels in Wireshark and tshark: control messages, inner packets and data frames over TCP, UDP, TLS and DTLS, and in
-- the captures that tsc-server and applications write. How to install and use it: README.md beside this file.
--
-- Names, texts and errors are those of `tsc-decode`; a test (tools/decode/tests/wireshark.rs) compares the two. Needs
-- Wireshark 4.0 or later. Nothing here trusts a length: every read is preceded by a comparison with what there is.

-- Wireshark has given the name `tscf` to something else (IEEE 1722), so filters begin with `tsm`.
local NAME = "tsm"
local tscf = Proto(NAME, "Tunneled Session Management (TSCF)")

-- tables: written by that test from the crate `tsc-tpl` (TSC_WRITE_TABLES=1); it fails when they differ.
local CM_TYPES = {
    [1] = "Configuration_Request",
    [2] = "Configuration_Response",
    [3] = "Configuration_Resume_Request",
    [4] = "Configuration_Resume_Response",
    [5] = "Configuration_Release_Request",
    [6] = "Configuration_Release_Response",
    [7] = "Keepalive",
    [8] = "Keepalive_Response",
    [9] = "Service_Request",
    [10] = "Service_Response",
    [11] = "Client_Service_Request",
    [12] = "Client_Service_Response",
}

local TLV_TYPES = {
    [1] = "Internal_IPv4_Address",
    [2] = "Internal_IPv4_Netmask",
    [3] = "Internal_IPv6_Address",
    [4] = "Internal_IPv6_Prefix_Length",
    [5] = "SIP_Server_IPv4",
    [6] = "SIP_Server_IPv6",
    [7] = "Keepalive_Interval",
    [8] = "Persistence_Time",
    [9] = "NAT_Info_IPv4",
    [10] = "NAT_Info_IPv6",
    [11] = "Connection_Info_IPv4",
    [12] = "Connection_Info_IPv6",
    [13] = "Service_Type",
    [14] = "Response_Code",
    [15] = "Redundancy_Factor",
    [16] = "Redundancy_Method",
    [17] = "Tunnel_Session_ID",
    [18] = "Peer_Service_Response",
    [19] = "Header_Compression_Index",
    [20] = "Payload_Type",
    [21] = "Buffer_Size",
    [22] = "Tunnel_Tag",
    [23] = "Resume_Key",
    [24] = "Address_Request",
    [25] = "Path_ID",
    [26] = "Routed_Prefix_IPv4",
    [27] = "Routed_Prefix_IPv6",
    [28] = "DNS_Server_IPv4",
    [29] = "DNS_Server_IPv6",
    [30] = "Inner_MTU",
    [31] = "DSCP",
    [32] = "Alternate_Server",
    [33] = "Socket_Reference",
    [34] = "Cookie",
    [35] = "Auth_Token",
    [36] = "Resume_Proof",
    [37] = "Certificate_Fingerprint",
    [38] = "Active_Services",
    [39] = "Companion_Endpoint",
    [40] = "Retry_After",
    [41] = "Offending_Type",
    [0x8001] = "Client_Info",
    [0x8002] = "Supported_Services",
    [0x8003] = "Reason_Text",
    [0x8004] = "Padding",
    [0x8005] = "Protocol_Revision",
}

local RESPONSE_CODES = {
    [0] = "success",
    [1] = "service_unavailable",
    [2] = "malformed",
    [3] = "unsupported_version",
    [4] = "unsupported_tlv",
    [5] = "unknown_tunnel",
    [6] = "no_address",
    [7] = "no_resources",
    [8] = "not_authorized",
    [9] = "resume_rejected",
    [10] = "redirect",
    [11] = "peer_unavailable",
    [12] = "busy",
    [13] = "unsupported_service",
    [14] = "index_exhausted",
    [15] = "unsupported_message",
    [16] = "cookie_required",
}

local SERVICE_TYPES = {
    [1] = "enable redundancy",
    [2] = "disable redundancy",
    [3] = "enable DDT",
    [4] = "disable DDT",
    [5] = "enable DTTE",
    [6] = "disable DTTE",
    [7] = "enable header compression",
    [8] = "disable header compression",
    [9] = "enable media compression",
    [10] = "disable media compression",
    [11] = "enable circuit breaker",
    [12] = "disable circuit breaker",
    [13] = "enable multipath",
    [14] = "disable multipath",
    [15] = "enable redundant traffic encoding",
    [16] = "disable redundant traffic encoding",
    [17] = "enable header redundancy removal",
    [18] = "disable header redundancy removal",
    [19] = "enable peer service",
    [20] = "disable peer service",
    [21] = "enable tunneled streams",
    [22] = "disable tunneled streams",
    [25] = "enable server keepalive",
    [26] = "disable server keepalive",
    [27] = "enable STG",
    [28] = "disable STG",
    [31] = "handover",
    [32] = "cancel handover",
}

local TRANSPORTS = {
    [1] = "TCP",
    [2] = "TLS",
    [3] = "UDP",
    [4] = "DTLS",
}

local REDUNDANCY_METHODS = {
    [1] = "copies",
    [2] = "fan-out",
    [3] = "load balance",
}

local FIRST = {
    control = 0x10,
    redundancy = 0x1c,
    compressed_short = 0x1d,
    compressed_long = 0x1e,
    extension = 0x1f,
}

local FRAMES = {
    [0x1c] = "redundancy frame",
    [0x1d] = "compressed_short",
    [0x1e] = "compressed_long",
    [0x1f] = "extension",
}

local ALPN = "tscf"

local LIMITS = {
    header = 16,
    tlv_header = 4,
    control_message = 4096,
    tlvs = 64,
    probe = 9020,
    padding = 9000,
    text = 128,
    cookie = { 8, 64 },
    auth_token = { 1, 2048 },
    entries = 9,
    redundancy_factor = 8,
    inner_mtu = 9000,
    least_mtu_ipv4 = 576,
    least_mtu_ipv6 = 1280,
}

-- May appear more than once in a message.
local REPEATABLE = {
    [1] = true, [2] = true, [3] = true, [4] = true, [5] = true, [6] = true, [11] = true,
    [12] = true, [17] = true, [22] = true, [24] = true, [26] = true, [27] = true, [28] = true,
    [29] = true, [32] = true,
}

-- The TLV that a response code comes with.
local NEEDED = {
    [4] = 41,
    [10] = 32,
    [16] = 34,
}

-- What each message carries, by outcome. Types with the high bit set are never out of place.
local ROWS = {
    [1] = {
        request = {
            required = { 0x8005 },
            listed = { [17] = true, [22] = true, [24] = true, [30] = true, [34] = true, [35] = true },
        },
    },
    [2] = {
        success = {
            required = { 14, 0x8005, 7, 8, 23, 30 },
            listed = {
                [1] = true, [2] = true, [3] = true, [4] = true, [5] = true, [6] = true, [7] = true,
                [8] = true, [9] = true, [10] = true, [14] = true, [23] = true, [28] = true, [29] = true,
                [30] = true, [31] = true, [32] = true,
            },
        },
        refused = {
            required = { 14 },
            listed = { [14] = true, [32] = true, [34] = true, [40] = true, [41] = true },
        },
    },
    [3] = {
        request = {
            required = { 0x8005, 36 },
            listed = { [34] = true, [35] = true, [36] = true },
        },
    },
    [4] = {
        success = {
            required = { 14, 0x8005, 7, 8, 30, 38 },
            listed = {
                [1] = true, [2] = true, [3] = true, [4] = true, [5] = true, [6] = true, [7] = true,
                [8] = true, [9] = true, [10] = true, [14] = true, [28] = true, [29] = true, [30] = true,
                [31] = true, [32] = true, [38] = true,
            },
        },
        refused = {
            required = { 14 },
            listed = { [14] = true, [32] = true, [34] = true, [40] = true, [41] = true },
        },
    },
    [5] = {
        request = {
            required = {},
            listed = {},
        },
    },
    [6] = {
        success = {
            required = { 14 },
            listed = { [14] = true },
        },
        refused = {
            required = { 14 },
            listed = { [14] = true, [40] = true, [41] = true },
        },
    },
    [7] = {
        request = {
            required = {},
            listed = {},
        },
    },
    [8] = {
        success = {
            required = { 14 },
            listed = { [9] = true, [10] = true, [14] = true },
        },
        refused = {
            required = { 14 },
            listed = { [14] = true, [40] = true, [41] = true },
        },
    },
    [9] = {
        request = {
            required = { 13 },
            listed = {
                [11] = true, [12] = true, [13] = true, [15] = true, [16] = true, [19] = true, [20] = true,
                [21] = true, [25] = true, [26] = true, [27] = true, [31] = true, [32] = true, [33] = true,
                [37] = true, [40] = true,
            },
        },
    },
    [10] = {
        success = {
            required = { 14, 13 },
            listed = {
                [7] = true, [11] = true, [12] = true, [13] = true, [14] = true, [15] = true, [16] = true,
                [17] = true, [18] = true, [19] = true, [20] = true, [21] = true, [22] = true, [25] = true,
                [26] = true, [27] = true, [33] = true, [37] = true, [39] = true,
            },
        },
        refused = {
            required = { 13, 14 },
            listed = { [13] = true, [14] = true, [18] = true, [33] = true, [40] = true, [41] = true },
        },
        unreadable = {
            required = { 14 },
            listed = { [13] = true, [14] = true, [18] = true, [33] = true, [40] = true, [41] = true },
        },
    },
    [11] = {
        request = {
            required = { 13 },
            listed = {
                [11] = true, [12] = true, [13] = true, [15] = true, [16] = true, [19] = true, [20] = true,
                [21] = true, [25] = true, [26] = true, [27] = true, [31] = true, [32] = true, [33] = true,
                [37] = true, [40] = true,
            },
        },
    },
    [12] = {
        success = {
            required = { 14, 13 },
            listed = {
                [7] = true, [11] = true, [12] = true, [13] = true, [14] = true, [15] = true, [16] = true,
                [17] = true, [18] = true, [19] = true, [20] = true, [21] = true, [22] = true, [25] = true,
                [26] = true, [27] = true, [33] = true, [37] = true, [39] = true,
            },
        },
        refused = {
            required = { 13, 14 },
            listed = { [13] = true, [14] = true, [18] = true, [33] = true, [40] = true, [41] = true },
        },
        unreadable = {
            required = { 14 },
            listed = { [13] = true, [14] = true, [18] = true, [33] = true, [40] = true, [41] = true },
        },
    },
}
-- end of tables

---------------------------------------------------------------------------------------------------------------------------
-- Preferences
---------------------------------------------------------------------------------------------------------------------------

local DEFAULT_PORTS = "4567"

tscf.prefs.ports = Pref.range("Ports", DEFAULT_PORTS,
    "Ports of tunnel servers: TCP and UDP, and below TLS and DTLS. Others are found by their first message.", 65535)
tscf.prefs.inner_mtu = Pref.uint("Inner MTU", LIMITS.inner_mtu, "Longest inner packet that is no error")
tscf.prefs.secrets = Pref.bool("Show secrets", false,
    "Show keys, tags, cookies and tokens in the tree, and hence in what is exported from it; the bytes are there anyway")
tscf.prefs.copies = Pref.bool("Dissect copies", false,
    "Pass every copy of a redundancy frame on to the IP dissector, not only the first of each packet")

---------------------------------------------------------------------------------------------------------------------------
-- Fields and expert infos
---------------------------------------------------------------------------------------------------------------------------

local fields = {}

-- A field `tsm.ABBREVIATION`.
local function field(kind, abbreviation, name, ...)
    local made = ProtoField[kind](NAME .. "." .. abbreviation, name, ...)
    fields[#fields + 1] = made
    return made
end

local UNITS = {
    control = "control message", ip = "inner packet", redundancy = "redundancy frame", reserved = "reserved frame",
}

local F = {
    unit = field("string", "unit", "Unit"),
    tunnel = field("uint64", "tunnel", "Tunnel", base.HEX, nil, nil, "The tunnel of this transport, as far as it is known"),
    cm_type = field("uint8", "type", "CM_Type", base.DEC, CM_TYPES),
    count = field("uint16", "tlv_count", "TLV_Count", base.DEC),
    tsid = field("uint64", "tsid", "Tunnel Session ID", base.HEX),
    sequence = field("uint32", "sequence", "Sequence", base.DEC),
    tlv = field("string", "tlv", "TLV", base.UNICODE, "Name and value, as tsc-decode writes them"),
    tlv_type = field("uint16", "tlv.type", "Type", base.DEC, TLV_TYPES),
    tlv_length = field("uint16", "tlv.length", "Length", base.DEC),
    tlv_value = field("bytes", "tlv.value", "Value"),
    first = field("uint8", "frame.type", "Frame", base.HEX, FRAMES),
    entries = field("uint8", "redundancy.count", "Entries", base.DEC),
    entry_sequence = field("uint32", "redundancy.sequence", "Sequence", base.DEC),
    entry_length = field("uint16", "redundancy.length", "Length", base.DEC),
    entry_first = field("framenum", "redundancy.first_in", "Copy of the packet in frame", base.NONE),
    index = field("uint8", "reserved.index", "Index", base.DEC),
    payload_length = field("uint16", "reserved.length", "Payload length", base.DEC),
    payload = field("bytes", "reserved.payload", "Payload"),
    rest = field("bytes", "undecoded", "Not decoded"),
}

local EXPERTS = {}

local function an_expert(abbreviation, text, group, severity)
    local made = ProtoExpert.new(NAME .. ".expert." .. abbreviation, text, expert.group[group], expert.severity[severity])
    EXPERTS[#EXPERTS + 1] = made
    return made
end

local E = {
    framing = an_expert("framing", "No unit", "MALFORMED", "ERROR"),
    value = an_expert("value", "Wrong value", "MALFORMED", "ERROR"),
    rule = an_expert("rule", "The message breaks a rule of its type", "PROTOCOL", "ERROR"),
    unsupported = an_expert("unsupported", "Not supported", "UNDECODED", "WARN"),
    cut = an_expert("cut", "Not all was captured", "UNDECODED", "WARN"),
    reserved = an_expert("reserved", "A frame of a service that is not described yet", "UNDECODED", "NOTE"),
    refused = an_expert("refused", "Refused", "RESPONSE_CODE", "NOTE"),
}

---------------------------------------------------------------------------------------------------------------------------
-- Texts, as tsc-decode writes them
---------------------------------------------------------------------------------------------------------------------------

local function named(names, what)
    return function(value)
        return names[value] or string.format("unknown %s 0x%x", what, value)
    end
end

local cm_name = named(CM_TYPES, "message type")
local tlv_name = named(TLV_TYPES, "TLV type")

local function hex(range)
    return range:bytes():tohex(true)
end

local UNASSIGNED, ZERO = string.rep("f", 16), string.rep("0", 16)

local function tsid_text(range)
    local text = hex(range)
    return text == UNASSIGNED and "unassigned" or text
end

-- Quoted, as a peer chose it.
local function quoted(text)
    local escapes = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\0"] = "\\0" }
    return '"' .. text:gsub('[%c\\"]', function(char)
        return escapes[char] or string.format("\\u{%x}", char:byte())
    end) .. '"'
end

-- Whether these bytes are UTF-8 (RFC 3629).
local function is_utf8(text)
    local at, len = 1, #text
    while at <= len do
        local first = text:byte(at)
        local more, least, most = 0, 0x80, 0xBF
        if first >= 0x80 then
            if first >= 0xC2 and first <= 0xDF then more = 1
            elseif first >= 0xE0 and first <= 0xEF then more = 2
            elseif first >= 0xF0 and first <= 0xF4 then more = 3
            else return false end
            if first == 0xE0 then least = 0xA0 elseif first == 0xED then most = 0x9F
            elseif first == 0xF0 then least = 0x90 elseif first == 0xF4 then most = 0x8F end
        end
        for step = 1, more do
            local byte = text:byte(at + step)
            if not byte or byte < least or byte > most then return false end
            least, most = 0x80, 0xBF
        end
        at = at + 1 + more
    end
    return true
end

---------------------------------------------------------------------------------------------------------------------------
-- Values of TLVs. A kind makes, for a TLV's abbreviation and name, a reader: it adds what can be filtered by to `tree` and
-- returns the value's text (and the value, where rules look at it), or nil and what is wrong.
---------------------------------------------------------------------------------------------------------------------------

local function wrong_length(len)
    return nil, "length " .. len .. " is not allowed"
end

-- Kinds with one length.
local function exactly(bytes, read)
    return function(tvb, at, len, tree)
        if len ~= bytes then return wrong_length(len) end
        return read(tvb, at, tree)
    end
end

-- `show` makes the text; above `most` the value is wrong, by `rule`.
local function number(bytes, show, names, most, rule)
    return function(abbreviation, name)
        local f = field("uint" .. bytes * 8, abbreviation, name, base.DEC, names)
        return exactly(bytes, function(tvb, at, tree)
            local value = tvb(at, bytes):uint()
            tree:add(f, tvb(at, bytes))
            if most and value > most then return nil, rule end
            return show and show(value) or tostring(value), value
        end)
    end
end

local function code(bytes, names, what)
    return number(bytes, named(names, what), names)
end

local function seconds(value)
    return value .. "s"
end

local function tunnel_id(abbreviation, name)
    local f = field("uint64", abbreviation, name, base.HEX)
    return exactly(8, function(tvb, at, tree)
        tree:add(f, tvb(at, 8))
        return tsid_text(tvb(at, 8))
    end)
end

-- Bytes of an address of a family, and how to read one.
local FAMILIES = {
    [4] = { len = 4, kind = "ipv4", read = function(range) return tostring(range:ipv4()) end, bits = 32 },
    [6] = { len = 16, kind = "ipv6", read = function(range) return tostring(range:ipv6()) end, bits = 128 },
}

local function with_port(version, address, port)
    return version == 6 and string.format("[%s]:%d", address, port) or string.format("%s:%d", address, port)
end

local function address(version)
    local family = FAMILIES[version]
    return function(abbreviation, name)
        local f = field(family.kind, abbreviation, name)
        return exactly(family.len, function(tvb, at, tree)
            tree:add(f, tvb(at, family.len))
            return family.read(tvb(at, family.len)), version
        end)
    end
end

local function netmask(abbreviation, name)
    local f = field("ipv4", abbreviation, name)
    return exactly(4, function(tvb, at, tree)
        local mask = tvb(at, 4):uint()
        tree:add(f, tvb(at, 4))
        -- Ones, then zeros: what is missing to all ones is a power of two less one.
        local hosts = 4294967296 - mask
        while hosts > 1 and hosts % 2 == 0 do hosts = hosts / 2 end
        if hosts ~= 1 then return nil, "netmask has holes" end
        return tostring(tvb(at, 4):ipv4())
    end)
end

-- Fields of an endpoint, and a function that adds them and returns the text.
local function endpoint(version, abbreviation, name)
    local family = FAMILIES[version]
    local f = field(family.kind, abbreviation, name)
    local p = field("uint16", abbreviation .. (abbreviation:find("%.") and "_port" or ".port"), name .. " port", base.DEC)
    return function(tvb, at, tree)
        local range, port = tvb(at, family.len), tvb(at + family.len, 2)
        tree:add(f, range)
        tree:add(p, port)
        return with_port(version, family.read(range), port:uint())
    end, family.len + 2
end

local function socket_address(version)
    return function(abbreviation, name)
        local read, len = endpoint(version, abbreviation, name)
        return exactly(len, read)
    end
end

local function connection(version)
    return function(abbreviation, name)
        local transport = field("uint8", abbreviation .. ".transport", "Transport", base.DEC, TRANSPORTS)
        local flags = field("uint8", abbreviation .. ".flags", "Flags", base.HEX)
        local source, len = endpoint(version, abbreviation .. ".source", "Source")
        local destination = endpoint(version, abbreviation .. ".destination", "Destination")
        return exactly(2 + 2 * len, function(tvb, at, tree)
            tree:add(transport, tvb(at, 1))
            tree:add(flags, tvb(at + 1, 1))
            local from = source(tvb, at + 2, tree)
            local to = destination(tvb, at + 2 + len, tree)
            if tvb(at + 1, 1):uint() ~= 0 then return nil, "unknown flags" end
            return string.format("%s %s > %s", named(TRANSPORTS, "transport")(tvb(at, 1):uint()), from, to)
        end)
    end
end

local function prefix(version)
    local family = FAMILIES[version]
    return function(abbreviation, name)
        local f = field(family.kind, abbreviation, name)
        local l = field("uint8", abbreviation .. ".length", name .. " length", base.DEC)
        return exactly(family.len + 1, function(tvb, at, tree)
            tree:add(f, tvb(at, family.len))
            tree:add(l, tvb(at + family.len, 1))
            local len = tvb(at + family.len, 1):uint()
            if len > family.bits then return nil, "prefix length above " .. family.bits end
            return family.read(tvb(at, family.len)) .. "/" .. len
        end)
    end
end

local function server(abbreviation, name)
    local transport = field("uint8", abbreviation .. ".transport", "Transport", base.DEC, TRANSPORTS)
    local version = field("uint8", abbreviation .. ".family", "Family", base.DEC)
    local port = field("uint16", abbreviation .. ".port", "Port", base.DEC)
    local addresses = {}
    for number, family in pairs(FAMILIES) do
        addresses[number] = field(family.kind, abbreviation .. "." .. family.kind, "Address")
    end
    return function(tvb, at, len, tree)
        if len < 2 then return wrong_length(len) end
        local number = tvb(at + 1, 1):uint()
        local family = FAMILIES[number]
        tree:add(transport, tvb(at, 1))
        tree:add(version, tvb(at + 1, 1))
        if not family then return nil, "family is neither 4 nor 6" end
        if len ~= 4 + family.len then return wrong_length(len) end
        tree:add(port, tvb(at + 2, 2))
        tree:add(addresses[number], tvb(at + 4, family.len))
        local where = with_port(number, family.read(tvb(at + 4, family.len)), tvb(at + 2, 2):uint())
        return named(TRANSPORTS, "transport")(tvb(at, 1):uint()) .. " " .. where
    end
end

local function address_request(abbreviation, name)
    local version = field("uint8", abbreviation .. ".family", "Family", base.DEC)
    local count = field("uint8", abbreviation .. ".count", "Count", base.DEC)
    return exactly(2, function(tvb, at, tree)
        tree:add(version, tvb(at, 1))
        tree:add(count, tvb(at + 1, 1))
        local number = tvb(at, 1):uint()
        if not FAMILIES[number] then return nil, "family is neither 4 nor 6" end
        return string.format("%d x IPv%d", tvb(at + 1, 1):uint(), number)
    end)
end

local function payload_type(abbreviation, name)
    local f = field("bytes", abbreviation, name)
    return exactly(2, function(tvb, at, tree)
        tree:add(f, tvb(at, 2))
        return tvb(at, 1):uint() .. "/" .. tvb(at + 1, 1):uint()
    end)
end

local function available(abbreviation, name)
    local texts = { [0] = "unavailable", [1] = "available" }
    local f = field("uint8", abbreviation, name, base.DEC, texts)
    return exactly(1, function(tvb, at, tree)
        tree:add(f, tvb(at, 1))
        local text = texts[tvb(at, 1):uint()]
        if not text then return nil, "neither 0 nor 1" end
        return text
    end)
end

local function secret(least, most)
    return function(abbreviation, name)
        local f = field("bytes", abbreviation, name)
        return function(tvb, at, len, tree)
            if len < least or len > most then return wrong_length(len) end
            if tscf.prefs.secrets then tree:add(f, tvb(at, len)) end
            return string.format("<%d bytes hidden>", len)
        end
    end
end

local function proof(abbreviation, name)
    local counter = field("uint32", abbreviation .. ".counter", "Counter", base.DEC)
    local mac = field("bytes", abbreviation .. ".mac", "MAC")
    return exactly(36, function(tvb, at, tree)
        tree:add(counter, tvb(at, 4))
        if tscf.prefs.secrets then tree:add(mac, tvb(at + 4, 32)) end
        return string.format("counter %d <32 bytes hidden>", tvb(at, 4):uint())
    end)
end

local function fingerprint(abbreviation, name)
    local f = field("bytes", abbreviation, name)
    return exactly(32, function(tvb, at, tree)
        tree:add(f, tvb(at, 32))
        return hex(tvb(at, 32))
    end)
end

local function services(abbreviation, name)
    local f = field("uint16", abbreviation, name, base.DEC, SERVICE_TYPES)
    return function(tvb, at, len, tree)
        if len % 2 ~= 0 or len > LIMITS.control_message then return wrong_length(len) end
        local names = {}
        for place = at, at + len - 2, 2 do
            tree:add(f, tvb(place, 2))
            names[#names + 1] = named(SERVICE_TYPES, "service type")(tvb(place, 2):uint())
        end
        return "[" .. table.concat(names, ", ") .. "]"
    end
end

local function text(abbreviation, name)
    local f = field("string", abbreviation, name, base.UNICODE)
    return function(tvb, at, len, tree)
        if len > LIMITS.text then return wrong_length(len) end
        if len == 0 then return '""' end
        local bytes = tvb(at, len):raw()
        if not is_utf8(bytes) then return nil, "text is not UTF-8" end
        tree:add(f, tvb(at, len), (bytes:gsub("%c", " ")))
        return quoted(bytes)
    end
end

local function padding()
    return function(tvb, at, len)
        if len > LIMITS.padding then return wrong_length(len) end
        if len > 0 and tvb(at, len):raw():find("[^%z]") then return nil, "padding is not zero" end
        return len .. " bytes"
    end
end

local KINDS = {
    Internal_IPv4_Address = address(4),
    Internal_IPv4_Netmask = netmask,
    Internal_IPv6_Address = address(6),
    Internal_IPv6_Prefix_Length = number(1, nil, nil, 128, "prefix length above 128"),
    SIP_Server_IPv4 = socket_address(4),
    SIP_Server_IPv6 = socket_address(6),
    Keepalive_Interval = number(2, seconds),
    Persistence_Time = number(2, seconds),
    NAT_Info_IPv4 = socket_address(4),
    NAT_Info_IPv6 = socket_address(6),
    Connection_Info_IPv4 = connection(4),
    Connection_Info_IPv6 = connection(6),
    Service_Type = code(2, SERVICE_TYPES, "service type"),
    Response_Code = code(2, RESPONSE_CODES, "response code"),
    Redundancy_Factor = number(1, nil, nil, LIMITS.redundancy_factor,
        "redundancy factor above " .. LIMITS.redundancy_factor),
    Redundancy_Method = code(1, REDUNDANCY_METHODS, "redundancy method"),
    Tunnel_Session_ID = tunnel_id,
    Peer_Service_Response = available,
    Header_Compression_Index = number(1),
    Payload_Type = payload_type,
    Buffer_Size = number(4),
    Tunnel_Tag = secret(16, 16),
    Resume_Key = secret(32, 32),
    Address_Request = address_request,
    Path_ID = number(1),
    Routed_Prefix_IPv4 = prefix(4),
    Routed_Prefix_IPv6 = prefix(6),
    DNS_Server_IPv4 = address(4),
    DNS_Server_IPv6 = address(6),
    Inner_MTU = number(2),
    DSCP = number(1, nil, nil, 63, "DSCP above 63"),
    Alternate_Server = server,
    Socket_Reference = number(4),
    Cookie = secret(LIMITS.cookie[1], LIMITS.cookie[2]),
    Auth_Token = secret(LIMITS.auth_token[1], LIMITS.auth_token[2]),
    Resume_Proof = proof,
    Certificate_Fingerprint = fingerprint,
    Active_Services = services,
    Companion_Endpoint = server,
    Retry_After = number(2, seconds),
    Offending_Type = code(2, TLV_TYPES, "TLV type"),
    Client_Info = text,
    Supported_Services = services,
    Reason_Text = text,
    Padding = padding,
    Protocol_Revision = number(2),
}

-- Type by name, and the reader of each type.
local T, READERS = {}, {}
for number, name in pairs(TLV_TYPES) do
    T[name] = number
    local kind = KINDS[name]
    if kind then READERS[number] = kind(name:lower(), name) end
end

-- Private, ours: tsc-decode knows no name for it either.
local RECEPTION_REPORT = 0xFF52
local REPORT_FIELDS = {}
for place, name in ipairs({ "expected", "originals", "delivered", "runs" }) do
    REPORT_FIELDS[place] = field("uint32", "reception_report." .. name, "Reception report: " .. name, base.DEC)
end

-- A type that is not known.
local function unknown(tvb, at, len, tree, number)
    if number < 0x8000 then return nil, nil end
    if number == RECEPTION_REPORT and len == 16 then
        for place, f in ipairs(REPORT_FIELDS) do tree:add(f, tvb(at + 4 * (place - 1), 4)) end
    elseif len > 0 and tscf.prefs.secrets then
        tree:add(F.tlv_value, tvb(at, len))
    end
    return string.format("<%d bytes>", len)
end

---------------------------------------------------------------------------------------------------------------------------
-- Rules of whole messages, in the order of `tsc-tpl` (message/rules.rs)
---------------------------------------------------------------------------------------------------------------------------

local PAIRS = {
    [T.Internal_IPv4_Address] = T.Internal_IPv4_Netmask,
    [T.Internal_IPv6_Address] = T.Internal_IPv6_Prefix_Length,
    [T.Tunnel_Session_ID] = T.Tunnel_Tag,
}

local CONFIGURATION_REQUEST, CONFIGURATION_RESPONSE, RESUME_REQUEST, RESUME_RESPONSE, KEEPALIVE = 1, 2, 3, 4, 7

local function row_of(cm_type, response_code)
    local outcomes = ROWS[cm_type]
    if outcomes.request then return outcomes.request end
    if response_code == 0 then return outcomes.success, true end
    -- malformed, unsupported_tlv: who answers may not have been able to read the request.
    if response_code == 2 or response_code == 4 then return outcomes.unreadable or outcomes.refused end
    return outcomes.refused
end

-- Unpaired halves.
local function unpaired(row, tlvs, has)
    local tags, open = 0, nil
    for _, tlv in ipairs(tlvs) do
        local number = tlv.number
        if row.listed[number] then
            if open then
                if number ~= PAIRS[open] then return open end
                open = nil
            elseif PAIRS[number] then
                open = number
            elseif number == T.Internal_IPv4_Netmask or number == T.Internal_IPv6_Prefix_Length then
                return number
            elseif number == T.Tunnel_Tag then
                tags = tags + 1
                if has[T.Tunnel_Session_ID] or tags > 1 then return number end
            end
        end
    end
    return open
end

-- The first rule that a message breaks, in words.
local function broken_rule(cm_type, tlvs, tsid)
    local has, values, count = {}, {}, {}
    for _, tlv in ipairs(tlvs) do
        has[tlv.number] = true
        count[tlv.number] = (count[tlv.number] or 0) + 1
        if values[tlv.number] == nil then values[tlv.number] = tlv.value end
    end
    local row, success = row_of(cm_type, values[T.Response_Code])
    local seen = {}
    for _, tlv in ipairs(tlvs) do
        local number = tlv.number
        if TLV_TYPES[number] then
            if not row.listed[number] and number < 0x8000 then
                return tlv_name(number) .. " has no meaning in this message", E.unsupported
            end
            local claim = cm_type == CONFIGURATION_REQUEST and (number == T.Tunnel_Session_ID or number == T.Tunnel_Tag)
            if seen[number] and (claim or not REPEATABLE[number]) then
                return tlv_name(number) .. " appears more than once", E.rule
            end
            seen[number] = true
        end
    end
    for _, number in ipairs(row.required) do
        if not has[number] then return tlv_name(number) .. " is missing", E.rule end
    end
    local needed = NEEDED[values[T.Response_Code]]
    if needed and not has[needed] then return tlv_name(needed) .. " is missing", E.rule end
    local half = unpaired(row, tlvs, has)
    if half then return tlv_name(half) .. " stands without its other half", E.rule end
    local assigns = success and (cm_type == CONFIGURATION_RESPONSE or cm_type == RESUME_RESPONSE)
    local fits = true
    if cm_type == CONFIGURATION_REQUEST or (cm_type == CONFIGURATION_RESPONSE and not assigns) then
        fits = tsid == UNASSIGNED
    elseif cm_type == CONFIGURATION_RESPONSE then
        fits = tsid ~= UNASSIGNED and tsid ~= ZERO
    end
    if not fits then return "the header's TSID does not fit the message", E.rule end
    if assigns then
        local six = has[T.Internal_IPv6_Address]
        if not six and not has[T.Internal_IPv4_Address] then return "no inner address", E.rule end
        local mtu, least = values[T.Inner_MTU], six and LIMITS.least_mtu_ipv6 or LIMITS.least_mtu_ipv4
        if mtu < least or mtu > LIMITS.inner_mtu then return "Inner_MTU: inner MTU out of range", E.value end
    end
end

---------------------------------------------------------------------------------------------------------------------------
-- Framing: how long the unit at `at` is, of which `have` bytes are there. "whole" and its length; "more" with the least
-- that it needs, and whether that is all it needs; "bad" with what is wrong.
---------------------------------------------------------------------------------------------------------------------------

local function u8(tvb, at) return tvb(at, 1):uint() end
local function u16(tvb, at) return tvb(at, 2):uint() end

local function extent(len, have)
    if have >= len then return "whole", len end
    return "more", len, true
end

local function beyond_mtu(len)
    local mtu = tscf.prefs.inner_mtu
    if len > mtu then return string.format("inner packet of %d bytes exceeds the inner MTU of %d", len, mtu) end
end

local function measure_ip(tvb, at, have)
    if have < 1 then return "more", 1 end
    local first, len = u8(tvb, at), nil
    local version = math.floor(first / 16)
    if version == 4 then
        local words = first % 16
        if words < 5 then return "bad", string.format("IPv4 header length %d words is below 5", words) end
        if have < 4 then return "more", words * 4 end
        len = u16(tvb, at + 2)
        if len < words * 4 then
            return "bad", string.format("IPv4 total length %d is shorter than its header of %d bytes", len, words * 4)
        end
    elseif version == 6 then
        if have < 6 then return "more", 40 end
        len = 40 + u16(tvb, at + 4)
    else
        return "bad", string.format("redundancy entry starts with 0x%02x, not an IP packet", first)
    end
    local error = beyond_mtu(len)
    if error then return "bad", error end
    return extent(len, have)
end

local function measure_control(tvb, at, have, stream)
    if have < 4 then return "more", LIMITS.header end
    local count = u16(tvb, at + 2)
    if count > LIMITS.tlvs then
        return "bad", string.format("control message of %d TLVs exceeds the limit of %d", count, LIMITS.tlvs)
    end
    local most = LIMITS.control_message
    -- Probes of the path may be longer.
    if not stream and u8(tvb, at + 1) == KEEPALIVE then most = LIMITS.probe end
    local len, place = LIMITS.header + count * LIMITS.tlv_header, LIMITS.header
    if have < place then return "more", len, count == 0 end
    for left = count, 1, -1 do
        if have < place + 4 then return "more", len end
        local value = u16(tvb, at + place + 2)
        len = len + value
        if len > most then
            local text = "control message of at least %d bytes exceeds the limit of %d"
            return "bad", string.format(text, len, LIMITS.control_message)
        end
        place = place + 4 + value
        if have < place then return "more", len, left == 1 end
    end
    return extent(len, have)
end

local function measure_redundancy(tvb, at, have, stream)
    if have < 2 then return "more", 26 end
    local count = u8(tvb, at + 1)
    if count < 1 or count > (stream and 1 or LIMITS.entries) then
        return "bad", string.format("redundancy frame of %d entries (1 to %d, 1 on streams)", count, LIMITS.entries)
    end
    local place, newest, last = 2, nil, 0
    for _ = 1, count do
        if have < place + 4 then return "more", place + 24 end
        local sequence = tvb(at + place, 4):uint()
        newest = newest or sequence
        local behind = (newest - sequence) % 4294967296
        if place > 2 and (behind <= last or behind >= 2147483648) then
            return "bad", "redundancy sequences are not strictly falling"
        end
        last = behind
        local how, len, exact = measure_ip(tvb, at + place + 4, have - place - 4)
        if how == "bad" then return how, len end
        if how == "more" then return how, place + 4 + len, exact and count == 1 end
        place = place + 4 + len
    end
    return "whole", place
end

local function measure_reserved(tvb, at, have, first)
    local header = first == FIRST.compressed_short and 3 or 4
    if have < header then return "more", header end
    local payload = header == 3 and u8(tvb, at + 2) or u16(tvb, at + 2)
    local error = beyond_mtu(payload)
    if error then return "bad", error end
    return extent(header + payload, have)
end

-- What a first byte announces: a unit, "stun", "dtls", or nothing.
local function classify(first)
    if first == FIRST.control then return "control" end
    if first >= 0x40 and first <= 0x4F or first >= 0x60 and first <= 0x6F then return "ip" end
    if first == FIRST.redundancy then return "redundancy" end
    if first >= FIRST.compressed_short and first <= FIRST.extension then return "reserved" end
    if first <= 0x01 then return "stun" end
    if first >= 0x14 and first <= 0x1B or first >= 0x20 and first <= 0x3F then return "dtls" end
end

local MEASURES = { control = measure_control, ip = measure_ip, redundancy = measure_redundancy }

local function measure(tvb, at, have, stream)
    local first = u8(tvb, at)
    local kind = classify(first)
    if kind == "reserved" then return kind, measure_reserved(tvb, at, have, first) end
    if MEASURES[kind] then return kind, MEASURES[kind](tvb, at, have, stream) end
    return nil, "bad", string.format("first byte 0x%02x starts no unit", first)
end

---------------------------------------------------------------------------------------------------------------------------
-- What is remembered of a capture: which tunnel a transport carries, and where a packet of a redundancy group came first.
---------------------------------------------------------------------------------------------------------------------------

local bindings, mains, arrivals

function tscf.init()
    bindings, mains, arrivals = {}, {}, {}
end

-- Names the transport, the same in both directions; nil where there is none (our own captures).
local function transport_of(pinfo)
    if pinfo.port_type == 0 then return nil end
    local ends = { tostring(pinfo.src) .. " " .. pinfo.src_port, tostring(pinfo.dst) .. " " .. pinfo.dst_port }
    table.sort(ends)
    return pinfo.port_type .. " " .. ends[1] .. " " .. ends[2]
end

local function bind(transport, pinfo, range)
    local list = bindings[transport] or {}
    bindings[transport] = list
    local last = list[#list]
    local tunnel = hex(range)
    if not last or last.tunnel ~= tunnel and last.frame <= pinfo.number then
        list[#list + 1] = { frame = pinfo.number, tunnel = tunnel, id = range:uint64() }
    end
end

local function tunnel_of(transport, pinfo)
    local list = bindings[transport] or {}
    for place = #list, 1, -1 do
        if list[place].frame <= pinfo.number then return list[place] end
    end
end

-- The frame that a packet of a group came with first. Packets are told by sequence and beginning.
local function first_arrival(group, sequence, packet, pinfo)
    local key = string.format("%s %d %s", group, sequence, hex(packet(0, math.min(packet:len(), 48))))
    arrivals[key] = arrivals[key] or pinfo.number
    return arrivals[key]
end

---------------------------------------------------------------------------------------------------------------------------
-- Units
---------------------------------------------------------------------------------------------------------------------------

local ip_dissector, tls_dissector = Dissector.get("ip"), Dissector.get("tls")
local dtls_dissector, stun_dissector = Dissector.get("dtls"), Dissector.get("stun-udp")

-- Another dissector's part. What it throws it has shown.
local function hand_over(dissector, tvb, pinfo, tree)
    local fine, taken = pcall(dissector.call, dissector, tvb, pinfo, tree)
    return fine and taken or tvb:len()
end

-- Keeps what stands in the column when the next unit writes to it.
local function keep(pinfo)
    pinfo.cols.info:append(" ")
    pinfo.cols.info:fence()
end

local function say(pinfo, line)
    pinfo.cols.protocol = "TSCF"
    pinfo.cols.info:clear()
    pinfo.cols.info:append(line)
    keep(pinfo)
end

local function show_tlvs(tvb, at, count, item)
    local tlvs, fine, place = {}, true, at
    for _ = 1, count do
        local number, len = u16(tvb, place), u16(tvb, place + 2)
        local name = tlv_name(number)
        local branch = item:add(tvb(place, 4 + len), name)
        branch:add(F.tlv_type, tvb(place, 2))
        branch:add(F.tlv_length, tvb(place + 2, 2))
        local value, found = (READERS[number] or unknown)(tvb, place + 4, len, branch, number)
        local label = name .. " = " .. (value or string.format("<%d bytes>", len))
        branch:set_text(label)
        branch:add(F.tlv, tvb(place, 4 + len), label):set_hidden()
        if not value then
            fine = false
            if READERS[number] then
                branch:add_proto_expert_info(E.value, name .. ": " .. found)
            else
                branch:add_proto_expert_info(E.unsupported, name .. " must be understood")
            end
        end
        tlvs[#tlvs + 1] = { number = number, value = found, text = value, at = place + 4, len = len }
        place = place + 4 + len
    end
    return tlvs, fine
end

local function show_control(unit, tvb, at, item, pinfo)
    local cm_type, count = u8(tvb, at + 1), u16(tvb, at + 2)
    item:add(F.cm_type, tvb(at + 1, 1))
    item:add(F.count, tvb(at + 2, 2))
    local tsid = tvb(at + 4, 8)
    item:add(F.tsid, tsid):append_text(" (" .. tsid_text(tsid) .. ")")
    item:add(F.sequence, tvb(at + 12, 4))
    local tlvs, fine = show_tlvs(tvb, at + LIMITS.header, count, item)
    local line, service, outcome = cm_name(cm_type), nil, nil
    for _, tlv in ipairs(tlvs) do
        if tlv.number == T.Service_Type then service = service or tlv.text end
        if tlv.number == T.Response_Code then outcome = outcome or tlv end
    end
    if service then line = line .. " (" .. service .. ")" end
    if outcome and outcome.text then line = line .. ": " .. outcome.text end
    item:append_text(string.format(", %s tsid=%s seq=%d", line, tsid_text(tsid), tvb(at + 12, 4):uint()))
    if not CM_TYPES[cm_type] then
        item:add_proto_expert_info(E.unsupported, cm_name(cm_type) .. " (not supported)")
    elseif fine then
        local error, kind = broken_rule(cm_type, tlvs, hex(tsid))
        if error then item:add_proto_expert_info(kind, error) end
        if outcome and outcome.value ~= 0 then item:add_proto_expert_info(E.refused, outcome.text) end
    end
    if unit.transport and hex(tsid) ~= UNASSIGNED and hex(tsid) ~= ZERO then
        bind(unit.transport, pinfo, tsid)
        -- Companions share the sequences of their main tunnel.
        for _, tlv in ipairs(tlvs) do
            if tlv.number == T.Tunnel_Session_ID and tlv.text and cm_type % 2 == 0 then mains[tlv.text] = hex(tsid) end
        end
    end
    say(pinfo, line)
end

local function show_ip(unit, tvb, at, len, item, pinfo)
    item:append_text(string.format(", inner packet of %d bytes", len))
    pinfo.cols.info:clear()
    hand_over(ip_dissector, tvb(at, len):tvb(), pinfo, unit.root)
    keep(pinfo)
end

local function show_redundancy(unit, tvb, at, item, pinfo)
    local count, place = u8(tvb, at + 1), at + 2
    item:add(F.first, tvb(at, 1))
    item:add(F.entries, tvb(at + 1, 1))
    item:append_text(string.format(", redundancy of %d", count))
    say(pinfo, "redundancy of " .. count)
    local known = unit.transport and tunnel_of(unit.transport, pinfo)
    local group = known and (mains[known.tunnel] or known.tunnel) or unit.transport or ""
    for _ = 1, count do
        local _, len = measure_ip(tvb, place + 4, tvb:len() - place - 4)
        local sequence, packet = tvb(place, 4):uint(), tvb(place + 4, len)
        local entry = item:add(tvb(place, 4 + len), string.format("%d: %d bytes", sequence, len))
        entry:add(F.entry_sequence, tvb(place, 4))
        entry:add(F.entry_length, packet, len):set_generated()
        local first = first_arrival(group, sequence, packet, pinfo)
        if first ~= pinfo.number then
            entry:add(F.entry_first, first):set_generated()
        end
        if first == pinfo.number or tscf.prefs.copies then
            hand_over(ip_dissector, packet:tvb(), pinfo, unit.root)
            keep(pinfo)
        end
        place = place + 4 + len
    end
end

local function show_reserved(tvb, at, len, item, pinfo)
    local first = u8(tvb, at)
    local header = first == FIRST.compressed_short and 3 or 4
    item:add(F.first, tvb(at, 1))
    item:add(F.index, tvb(at + 1, 1))
    item:add(F.payload_length, tvb(at + 2, header - 2))
    if len > header then item:add(F.payload, tvb(at + header, len - header)) end
    item:append_text(", " .. FRAMES[first])
    item:add_proto_expert_info(E.reserved)
    say(pinfo, FRAMES[first])
end

-- One unit of `len` bytes.
local function show(unit, kind, tvb, at, len, pinfo)
    local item = unit.root:add(tscf, tvb(at, len))
    item:add(F.unit, tvb(at, len), kind):set_text("Unit: " .. UNITS[kind]):set_generated()
    if kind == "control" then show_control(unit, tvb, at, item, pinfo)
    elseif kind == "ip" then show_ip(unit, tvb, at, len, item, pinfo)
    elseif kind == "redundancy" then show_redundancy(unit, tvb, at, item, pinfo)
    else show_reserved(tvb, at, len, item, pinfo) end
    local known = unit.transport and tunnel_of(unit.transport, pinfo)
    if known then item:add(F.tunnel, tvb(at, 1), known.id):set_generated() end
end

-- Bytes that are no unit.
local function show_error(unit, tvb, at, pinfo, error, kind)
    local item = unit.root:add(tscf, tvb(at))
    item:append_text(", " .. error)
    item:add(F.rest, tvb(at))
    item:add_proto_expert_info(kind or E.framing, error)
    say(pinfo, error)
end

local CUT = "the capture kept only a part of this packet"

---------------------------------------------------------------------------------------------------------------------------
-- Transports
---------------------------------------------------------------------------------------------------------------------------

local function dissect_datagram(unit, tvb, pinfo)
    local have = tvb:len()
    local class = classify(u8(tvb, 0))
    if class == "dtls" then return hand_over(dtls_dissector, tvb, pinfo, unit.root) end
    if class == "stun" then return hand_over(stun_dissector, tvb, pinfo, unit.root) end
    local kind, how, len = measure(tvb, 0, have, false)
    if how == "whole" and len == have then
        show(unit, kind, tvb, 0, len, pinfo)
    elseif how == "whole" then
        show_error(unit, tvb, 0, pinfo, string.format("%d bytes after the unit", have - len))
    elseif how == "bad" then
        show_error(unit, tvb, 0, pinfo, len)
    elseif have < tvb:reported_len() then
        show_error(unit, tvb, 0, pinfo, CUT, E.cut)
    else
        show_error(unit, tvb, 0, pinfo, string.format("unit of at least %d bytes in a datagram of %d", len, have))
    end
    return have
end

local function dissect_stream(unit, tvb, pinfo)
    local at, all = 0, tvb:len()
    -- What follows the unit is given back to TCP or TLS by the outer ends, which an inner packet replaces.
    local outer = { src = pinfo.src, dst = pinfo.dst, src_port = pinfo.src_port, dst_port = pinfo.dst_port }
    while at < all do
        local have = all - at
        local kind, how, len, exact = measure(tvb, at, have, true)
        if how == "whole" then
            show(unit, kind, tvb, at, len, pinfo)
            at = at + len
        elseif how == "bad" then
            show_error(unit, tvb, at, pinfo, len)
            return all
        elseif all < tvb:reported_len() or unit.can_desegment == 0 then
            show_error(unit, tvb, at, pinfo, CUT, E.cut)
            return all
        else
            for name, value in pairs(outer) do pinfo[name] = value end
            pinfo.desegment_offset = at
            pinfo.desegment_len = exact and len - have or DESEGMENT_ONE_MORE_SEGMENT
            return all
        end
    end
    return all
end

function tscf.dissector(tvb, pinfo, root)
    if tvb:len() == 0 then return 0 end
    local stream = pinfo.port_type == 2
    -- A record at the beginning of what would be a unit: a port that serves both, as it may.
    if stream and u8(tvb, 0) >= 0x14 and u8(tvb, 0) <= 0x17 then
        -- TCP lets only whom it calls itself ask for more: that is TLS now.
        local can_desegment = pinfo.can_desegment
        pinfo.can_desegment = can_desegment > 0 and can_desegment + 1 or 0
        local taken = hand_over(tls_dissector, tvb, pinfo, root)
        pinfo.can_desegment = can_desegment
        return taken
    end
    local unit = { root = root, transport = transport_of(pinfo), can_desegment = pinfo.can_desegment }
    pinfo.cols.protocol = "TSCF"
    return (stream and dissect_stream or dissect_datagram)(unit, tvb, pinfo)
end

-- On any port: a tunnel begins with a Configuration_Request or Resume_Request, and these begin like nothing else.
local function begins_tunnel(tvb)
    if tvb:len() < LIMITS.header or u8(tvb, 0) ~= FIRST.control then return false end
    local cm_type = u8(tvb, 1)
    if cm_type ~= CONFIGURATION_REQUEST and cm_type ~= RESUME_REQUEST then return false end
    local how, len = measure_control(tvb, 0, tvb:len(), false)
    if how ~= "whole" then return false end
    if cm_type == CONFIGURATION_REQUEST and hex(tvb(4, 8)) ~= UNASSIGNED then return false end
    local at = LIMITS.header
    while at < len do
        local number, size = u16(tvb, at), u16(tvb, at + 2)
        if number == T.Protocol_Revision and size == 2 then return true end
        at = at + 4 + size
    end
    return false
end

local function heuristic(tvb, pinfo, root)
    if not begins_tunnel(tvb) then return false end
    pinfo.conversation = tscf
    tscf.dissector(tvb, pinfo, root)
    return true
end

---------------------------------------------------------------------------------------------------------------------------
-- Registration
---------------------------------------------------------------------------------------------------------------------------

tscf.fields = fields
tscf.experts = EXPERTS

local registered

local function register(ports)
    for _, name in ipairs({ "tcp.port", "udp.port", "tls.port", "dtls.port" }) do
        local ways = DissectorTable.get(name)
        if registered and registered ~= "" then ways:remove(registered, tscf) end
        if ports ~= "" then ways:add(ports, tscf) end
    end
    registered = ports
end

function tscf.prefs_changed()
    if tscf.prefs.ports ~= registered then register(tscf.prefs.ports) end
end

register(DEFAULT_PORTS)
for _, name in ipairs({ "tcp", "udp", "tls", "dtls" }) do
    tscf:register_heuristic(name, heuristic)
end
for _, name in ipairs({ "tls.alpn", "dtls.alpn" }) do
    DissectorTable.get(name):add(ALPN, tscf)
end
-- Our own captures have units by themselves: interface "control".
DissectorTable.get("wtap_encap"):add((wtap_encaps or wtap).USER0, tscf)
