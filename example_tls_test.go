package vehicle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/vehicletest"
)

// Mutual TLS: the client verifies the server by the CA file, and shows a certificate of its own. The files may be replaced
// while it runs. A handshake that cannot succeed is not retried, and says why.
func ExampleWithTLSFiles() {
	dir, err := os.MkdirTemp("", "certs")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ca, err := vehicletest.MakeCA(dir) // in production: cert-manager, Vault, step-ca
	if err != nil {
		panic(err)
	}
	server, err := vehicletest.Start(vehicletest.WithTCP(), vehicletest.WithMutualTLS(ca))
	if err != nil {
		panic(err)
	}
	defer server.Close()

	files := vehicle.TLSFiles{
		CA:   filepath.Join(dir, "ca.pem"),
		Cert: filepath.Join(dir, "client-cert.pem"),
		Key:  filepath.Join(dir, "client-key.pem"),
	}
	for _, files := range []vehicle.TLSFiles{files, {CA: files.CA}} { // the second has no client certificate
		client, err := vehicle.New(server.Target(), vehicle.WithTLSFiles(files))
		if err != nil {
			panic(err)
		}
		res, err := client.Execute(context.Background(), vehicle.Command{VehicleID: vehicleID, Name: "ClearDTC"})
		fmt.Println(res.Status, res.Attempts)
		if errors.Is(err, vehicle.ErrUnavailable) {
			fmt.Println(strings.Contains(err.Error(), "TLS handshake: remote error: tls: certificate required"))
		}
		_ = client.Close()
	}
	// Output:
	// completed 1
	// failed 1
	// true
}
