#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kube_embedded_apiserver::fuzzing::rules(bytes));
