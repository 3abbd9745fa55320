#![no_main]

use oci_archive::{Archive, Platform};
use std::io::{self, Cursor, Read};

/// More is not decompressed: a small archive may have a layer of gigabytes.
const MAX_LAYER: u64 = 1 << 20;

// An image archive: everything that is read of one when it is added to a cluster.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut archive) = Archive::new(Cursor::new(bytes)) else { return };
    let Ok(images) = archive.images(&Platform::host()) else { return };
    for layer in images.iter().flat_map(|image| &image.layers) {
        if let Ok(mut reader) = archive.layer(layer) {
            let _ = io::copy(&mut (&mut reader).take(MAX_LAYER), &mut io::sink());
        }
    }
});
