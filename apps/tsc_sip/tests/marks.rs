//! The search marks of the SDK guide (chapter 3) stand in the sources, in the guide's order within each file.

const CLIENT: &[(&str, &str, &[&str])] = &[
    (
        "bin/tsc_sip_client.rs",
        include_str!("../src/bin/tsc_sip_client.rs"),
        &[
            "--- tsc_ctrl_init()",
            "--- Create a Tunnel",
            "--- TEST DONE",
            "Finished, Socket, Tunnel Cleanup",
        ],
    ),
    (
        "client/mod.rs",
        include_str!("../src/client/mod.rs"),
        &["--- SIP SOCKET CREATION", "--- REGISTER TRANSACTION"],
    ),
    (
        "client/call.rs",
        include_str!("../src/client/call.rs"),
        &[
            "RTP socket created",
            "--- INVITE TRANSACTION",
            "--- Build and send ACK",
            "--- RTP Exchange",
            "--- BYE TRANSACTION",
        ],
    ),
];

const INNER_TCP: &[(&str, &str, &[&str])] = &[
    (
        "bin/tsc_sip_inner_tcp.rs",
        include_str!("../src/bin/tsc_sip_inner_tcp.rs"),
        &[
            "--- tsc_ctrl_init()",
            "--- Create a Tunnel",
            "--- TEST DONE",
            "Finished, Socket, Tunnel Cleanup",
        ],
    ),
    (
        "client/message.rs",
        include_str!("../src/client/message.rs"),
        &[
            "--- INVITE TRANSACTION",
            "--- Build and send ACK",
            "--- MSRP Exchange",
            "--- BYE TRANSACTION",
        ],
    ),
];

#[test]
fn the_guides_search_marks_are_there() {
    for (file, source, marks) in CLIENT.iter().chain(INNER_TCP) {
        let mut rest = *source;
        for mark in *marks {
            let found = rest.split_once(mark);
            assert!(
                found.is_some(),
                "{mark:?} is missing or out of order in {file}"
            );
            rest = found.map_or("", |(_, after)| after);
        }
    }
}
