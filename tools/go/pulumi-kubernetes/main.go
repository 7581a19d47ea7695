// Pulumi's provider for Kubernetes, as its release builds it, but without the schema that only SDK generators read.
package main

import "github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"

// The release it stands for; set by the linker from tools/pins.toml.
var version = "0.0.0"

func main() {
	provider.Serve("kubernetes", version, []byte("{}"), []byte("{}"))
}
