//go:build tools

package conformance

// The suite's own echo server, of which the images are made.
import _ "sigs.k8s.io/gateway-api/conformance/echo-basic"
