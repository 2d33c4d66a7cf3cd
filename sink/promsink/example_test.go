package promsink_test

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sovd-go/vehicle"
	"github.com/sovd-go/vehicle/sink/promsink"
	"github.com/sovd-go/vehicle/vehicletest"
)

func Example() {
	server, err := vehicletest.Start()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	registry := prometheus.NewRegistry() // a program has prometheus.DefaultRegisterer, which promhttp.Handler serves
	client, err := vehicle.New(server.Target(), append(server.Options(), vehicle.WithSink(promsink.New(registry)))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	if _, err := client.Execute(context.Background(), vehicle.Command{VehicleID: uuid.New(), Name: "ReadDTC"}); err != nil {
		fmt.Println(err)
	}
	families, _ := registry.Gather()
	for _, f := range families {
		if f.GetName() == "sovd_chunks_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: sovd_chunks_total 3
}
