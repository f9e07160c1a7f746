//! Captures, read by programs of another making.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails here should panic")]

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_parser::{Block, PcapError, PcapNGOption, PcapNGReader, traits::PcapReaderIterator as _};
use proptest::prelude::*;
use relay_trace::{
    flow::{Ends, Numbers, Plan, Planned, Way},
    pcapng,
};

/// A capture of one connection or flow, as it is made.
struct Capture {
    ends: Ends,
    file: Vec<u8>,
    time: u64,
}

impl Capture {
    fn between(client: &str, server: &str) -> Self {
        let ends = Ends::new(client.parse().unwrap(), server.parse().unwrap());
        let mut file = pcapng::section("kubectl relay", "made up");
        file.extend(pcapng::interface("svc/web 80", "kubectl relay svc/web"));
        Self { ends, file, time: 1_700_000_000_123_456_789 }
    }

    fn take(&mut self, (way, plan, payload): Planned<'_>) {
        self.time += 1;
        let packet = self.ends.packet(way, plan, payload);
        self.file.extend(pcapng::packet(0, self.time, &packet, 0, None));
    }
}

/// A packet as it is read.
#[derive(Debug)]
struct Read {
    time: u64,
    from: SocketAddr,
    to: SocketAddr,
    /// SYN, FIN, RST, and the numbers of TCP.
    tcp: Option<(bool, bool, bool, u32, u32)>,
    payload: Vec<u8>,
    options: Vec<(u16, Vec<u8>)>,
}

fn options(options: &[PcapNGOption<'_>]) -> Vec<(u16, Vec<u8>)> {
    let value = |option: &PcapNGOption<'_>| option.value()[..usize::from(option.len)].to_vec();
    options.iter().map(|option| (option.code.0, value(option))).collect()
}

/// Every packet of a capture, its checksums checked; and the options of all other blocks.
fn read(file: &[u8]) -> (Vec<Read>, Vec<(u16, Vec<u8>)>) {
    let mut reader = PcapNGReader::new(1 << 20, file).unwrap();
    let (mut packets, mut others) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok((size, block)) => {
                let pcap_parser::PcapBlockOwned::NG(block) = block else { panic!("not pcapng") };
                match block {
                    Block::SectionHeader(section) => others.extend(options(&section.options)),
                    Block::InterfaceDescription(interface) => {
                        assert_eq!((interface.linktype.0, interface.if_tsresol), (1, 9));
                        others.extend(options(&interface.options));
                    }
                    Block::InterfaceStatistics(statistics) => others.extend(options(&statistics.options)),
                    Block::EnhancedPacket(packet) => {
                        assert_eq!(packet.caplen, packet.origlen);
                        let time = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                        let data = &packet.data[..packet.caplen as usize];
                        packets.push(Read { time, options: options(&packet.options), ..unpacked(data) });
                    }
                    other => panic!("{other:?}"),
                }
                reader.consume(size);
            }
            Err(PcapError::Eof) => return (packets, others),
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn unpacked(data: &[u8]) -> Read {
    let sliced = SlicedPacket::from_ethernet(data).unwrap();
    let (from, to): (std::net::IpAddr, std::net::IpAddr) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            assert_eq!(usize::from(header.total_len()) + 14, data.len());
            (header.source_addr().into(), header.destination_addr().into())
        }
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        other => panic!("{other:?}"),
    };
    let (ports, tcp, payload) = match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let sum = match (from, to) {
                (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                    tcp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), tcp.payload())
                }
                (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                    tcp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), tcp.payload())
                }
                _ => panic!("two families"),
            };
            assert_eq!(sum.unwrap(), tcp.checksum());
            let numbers =
                (tcp.syn(), tcp.fin(), tcp.rst(), tcp.sequence_number(), tcp.acknowledgment_number());
            ((tcp.source_port(), tcp.destination_port()), Some(numbers), tcp.payload().to_vec())
        }
        TransportSlice::Udp(udp) => {
            let sum = match (from, to) {
                (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                    udp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                }
                (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                    udp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                }
                _ => panic!("two families"),
            };
            assert_eq!(sum.unwrap(), udp.checksum());
            ((udp.source_port(), udp.destination_port()), None, udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    };
    let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
    Read { time: 0, from, to, tcp, payload, options: Vec::new() }
}

/// What went from an address, put together by its numbers alone; and whether it began and ended.
fn reassembled(packets: &[Read], from: SocketAddr) -> (Vec<u8>, bool, bool) {
    let (mut bytes, mut began, mut ended, mut next) = (Vec::new(), false, false, 0);
    for packet in packets.iter().filter(|packet| packet.from == from) {
        let (syn, fin, rst, seq, _) = packet.tcp.unwrap();
        if syn {
            (began, next) = (true, seq);
        }
        assert_eq!(seq, next, "a gap");
        assert!(!ended || packet.payload.is_empty());
        bytes.extend(&packet.payload);
        next = next.wrapping_add(packet.payload.len() as u32 + u32::from(syn) + u32::from(fin));
        ended |= fin || rst;
    }
    (bytes, began, ended)
}

const V4: (&str, &str) = ("127.0.0.1:50000", "10.96.0.7:80");
const V6: (&str, &str) = ("[::1]:50000", "[fd00::7]:80");

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_connection_is_put_together_again(
        ends in prop::sample::select(vec![V4, V6]),
        first: u32,
        pieces in prop::collection::vec((any::<bool>(), 1..50_000usize), 0..20),
        reset: bool,
    ) {
        let mut capture = Capture::between(ends.0, ends.1);
        let mut numbers = Numbers::new(first);
        let mut expected = [Vec::new(), Vec::new()];
        numbers.begin(|planned| capture.take(planned));
        for (index, (is_sent, len)) in pieces.into_iter().enumerate() {
            let way = if is_sent { Way::Sent } else { Way::Received };
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + index) as u8).collect();
            numbers.data(way, &bytes, |planned| capture.take(planned));
            expected[way as usize].extend(bytes);
        }
        numbers.end(Way::Sent, |planned| capture.take(planned));
        if reset {
            numbers.reset(Way::Received, |planned| capture.take(planned));
        } else {
            numbers.end(Way::Received, |planned| capture.take(planned));
            numbers.reset(Way::Received, |planned| capture.take(planned));
        }
        let (packets, _) = read(&capture.file);
        for (address, expected) in [(ends.0, &expected[0]), (ends.1, &expected[1])] {
            let (bytes, began, ended) = reassembled(&packets, address.parse().unwrap());
            prop_assert!(bytes == *expected && began && ended);
        }
        // Nobody acknowledges what has not been sent, or forgets what was acknowledged.
        let acknowledged = packets.iter().filter(|packet| packet.to == ends.0.parse().unwrap());
        let acknowledged: Vec<u32> = acknowledged.map(|packet| packet.tcp.unwrap().4.wrapping_sub(first)).collect();
        prop_assert!(acknowledged.is_sorted());
        prop_assert!(acknowledged.last().unwrap().wrapping_sub(2) as usize <= expected[0].len());
    }

    #[test]
    fn datagrams_are_as_they_were(
        ends in prop::sample::select(vec![V4, V6]),
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut capture = Capture::between(ends.0, ends.1);
        capture.take((Way::Sent, Plan::Udp, &bytes));
        capture.take((Way::Received, Plan::Udp, &[]));
        let (packets, _) = read(&capture.file);
        prop_assert_eq!(&packets[0].payload, &bytes);
        prop_assert_eq!(packets[1].from, ends.1.parse().unwrap());
    }
}

#[test]
fn the_largest_datagram_fits() {
    let mut capture = Capture::between(V4.0, V4.1);
    capture.take((Way::Sent, Plan::Udp, &[7; 65_507]));
    assert_eq!(read(&capture.file).0[0].payload, [7; 65_507]);
}

#[test]
fn ends_of_two_families_are_both_written_as_ipv6() {
    let mut capture = Capture::between("127.0.0.1:50000", "[fd00::7]:53");
    capture.take((Way::Sent, Plan::Udp, b"query"));
    let (packets, _) = read(&capture.file);
    assert_eq!(packets[0].from, "[::ffff:127.0.0.1]:50000".parse().unwrap());
}

#[test]
fn remarks_and_losses_stand_in_the_file() {
    let mut capture = Capture::between(V4.0, V4.1);
    let packet = capture.ends.packet(Way::Sent, Plan::Udp, b"x");
    capture.file.extend(pcapng::packet(0, 5_000_000_000, &packet, 3, Some("three are missing")));
    capture.file.extend(pcapng::statistics(0, 6_000_000_000, 7, 3));
    let (packets, others) = read(&capture.file);
    assert_eq!(packets[0].time, 5_000_000_000);
    let three = 3u64.to_le_bytes().to_vec();
    assert_eq!(packets[0].options[..2], [(4, three.clone()), (1, b"three are missing".to_vec())]);
    for expected in [(1, b"made up".to_vec()), (2, b"svc/web 80".to_vec()), (5, three)] {
        assert!(others.contains(&expected), "{expected:?} is missing in {others:?}");
    }
}
