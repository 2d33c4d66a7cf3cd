package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// api is the URL of a Prometheus, https://prometheus.io/docs/prometheus/latest/querying/api/.
type api string

// series is what a query gives.
type series struct {
	Metric map[string]string `json:"metric"`
	Value  *sample           `json:"value"`  // of an instant
	Values []sample          `json:"values"` // of a range
}

type sample struct {
	at    time.Time
	value float64
}

// UnmarshalJSON reads [seconds, "value"].
func (s *sample) UnmarshalJSON(text []byte) (err error) {
	var seconds float64
	var value string
	if err := json.Unmarshal(text, &[]any{&seconds, &value}); err != nil {
		return err
	}
	s.at = time.UnixMilli(int64(seconds * 1000))
	s.value, err = strconv.ParseFloat(value, 64)
	return err
}

func (a api) queryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]series, error) {
	var found struct {
		Result []series `json:"result"`
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	err := a.get(ctx, "query_range", url.Values{"query": {expr}, "start": {at(from)}, "end": {at(to)}, "step": {step.String()}}, &found)
	return found.Result, err
}

func (a api) get(ctx context.Context, path string, params url.Values, into any) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(a)+"/api/v1/"+path+"?"+params.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}
