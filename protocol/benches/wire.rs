//! What one header and one frame cost, both ways. `cargo bench --package relay-protocol --profile fast` runs it in a while;
//! without the profile the build takes minutes, and the figures are those of a release. `cargo xtask count` counts instructions.

use std::hint::black_box;

use relay_microbench::Cases;
use relay_protocol::frame::Frame;
use relay_protocol::{Address, Header, HostName, Protocol};
use uuid::Uuid;

fn headers(cases: &mut Cases) {
    let Ok(name) = HostName::new("web.default.svc.cluster.local") else { return };
    let addresses = [("ip", Address::Ip([10, 96, 0, 10].into())), ("name", Address::Host(name))];
    for (kind, address) in addresses {
        let header =
            Header { request_id: Uuid::from_bytes([7; 16]), protocol: Protocol::Tcp, port: 443, address };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        cases.case(&format!("header/{kind}/decode"), None, || Header::decode(black_box(&bytes)));
        let mut out = Vec::with_capacity(bytes.len());
        cases.case(&format!("header/{kind}/encode"), None, || {
            out.clear();
            black_box(&header).encode(&mut out);
        });
    }
}

fn frames(cases: &mut Cases) {
    let data = vec![7; 32 * 1024];
    let frames = [
        ("stream-64", Frame::Stream { id: 8, offset: 1 << 33, fin: false, data: &data[..64] }),
        ("stream-32k", Frame::Stream { id: 8, offset: 1 << 33, fin: false, data: &data }),
        ("datagram-512", Frame::Datagram { id: 3, seq: 100_000, header: None, data: &data[..512] }),
        ("lane-ack", Frame::LaneAck { lane: 2, position: 1 << 33 }),
    ];
    for (kind, frame) in frames {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let length = Some(bytes.len() as u64);
        cases.case(&format!("frame/{kind}/decode"), length, || Frame::decode(black_box(&bytes)).is_ok());
        let mut out = Vec::with_capacity(bytes.len());
        cases.case(&format!("frame/{kind}/encode"), length, || {
            out.clear();
            black_box(&frame).encode(&mut out);
        });
    }
}

fn main() {
    relay_microbench::main(|cases| {
        headers(cases);
        frames(cases);
    });
}
