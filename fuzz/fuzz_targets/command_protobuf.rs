#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_gateway::fuzzing::run("command_protobuf", input));
