package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

const (
	driverName = "gpu.example.com"
	// reportEvery is well below the 30 s after which the kubelet takes a device's health for unknown.
	reportEvery = 10 * time.Second
)

// driver is a DRA driver whose pool is the node.
type driver struct {
	inventory *inventory
	node      string
	helper    *kubeletplugin.Helper
	failed    context.CancelCauseFunc

	mu    sync.Mutex
	owner map[string]types.UID // of a device: the claim that it was prepared for
}

func startDriver(ctx context.Context, failed context.CancelCauseFunc, o options, inventory *inventory) (*driver, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	data, registry := filepath.Join(o.root, "plugins", driverName), filepath.Join(o.root, "plugins_registry")
	for _, folder := range []string{data, registry} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
	}
	d := newDriver(inventory, o.node, failed)
	d.helper, err = kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(driverName), kubeletplugin.NodeName(o.node), kubeletplugin.KubeClient(client),
		kubeletplugin.PluginDataDirectoryPath(data), kubeletplugin.RegistrarDirectoryPath(registry),
	)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func newDriver(inventory *inventory, node string, failed context.CancelCauseFunc) *driver {
	return &driver{inventory: inventory, node: node, failed: failed, owner: map[string]types.UID{}}
}

func (d *driver) stop() { d.helper.Stop() }

// publishChanges keeps the node's ResourceSlice as the inventory is.
func (d *driver) publishChanges(ctx context.Context) {
	for {
		devices, changed := d.inventory.snapshot()
		if err := d.helper.PublishResources(ctx, published(d.node, devices)); err != nil {
			d.failed(fmt.Errorf("publish the devices: %w", err))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// published is the node's pool. A device that does not work stays in it with a taint, so that nothing new gets it; a
// pool without devices is published too, because it says that the driver is there.
func published(node string, devices []device) resourceslice.DriverResources {
	var slice resourceslice.Slice
	for k, d := range devices {
		if d.state == gone {
			continue
		}
		entry := resourceapi.Device{
			Name: d.name,
			Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
				"index": {IntValue: ptr.To(int64(k))},
				"model": {StringValue: ptr.To("fake")},
			},
			Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi")}},
		}
		if d.state == unhealthy {
			entry.Taints = []resourceapi.DeviceTaint{{Key: driverName + "/unhealthy", Effect: resourceapi.DeviceTaintEffectNoSchedule}}
		}
		slice.Devices = append(slice.Devices, entry)
	}
	return resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: {Slices: []resourceslice.Slice{slice}}}}
}

// PrepareResourceClaims gives each claim its devices; a device is never given to two.
func (d *driver) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		devices, err := d.prepare(claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return results, nil
}

func (d *driver) prepare(claim *resourceapi.ResourceClaim) ([]kubeletplugin.Device, error) {
	if claim.Status.Allocation == nil {
		return nil, errors.New("the claim is not allocated")
	}
	var devices []kubeletplugin.Device
	for _, given := range claim.Status.Allocation.Devices.Results {
		if given.Driver != driverName || given.Pool != d.node {
			continue
		}
		if s := d.inventory.state(given.Device); s != healthy {
			return nil, fmt.Errorf("%s is %s", given.Device, s)
		}
		if owner, taken := d.owner[given.Device]; taken && owner != claim.UID {
			return nil, fmt.Errorf("%s is prepared for claim %s", given.Device, owner)
		}
		devices = append(devices, kubeletplugin.Device{
			Requests: []string{given.Request}, PoolName: given.Pool, DeviceName: given.Device, ShareID: given.ShareID,
		})
	}
	for _, device := range devices {
		d.owner[device.DeviceName] = claim.UID
	}
	return devices, nil
}

// UnprepareResourceClaims takes the devices back.
func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	results := map[types.UID]error{}
	for _, claim := range claims {
		for device, owner := range d.owner {
			if owner == claim.UID {
				delete(d.owner, device)
			}
		}
		results[claim.UID] = nil
	}
	return results, nil
}

// HandleError ends the program on what does not heal.
func (d *driver) HandleError(ctx context.Context, err error, message string) {
	klog.FromContext(ctx).Error(err, message)
	if !errors.Is(err, kubeletplugin.ErrRecoverable) {
		d.failed(fmt.Errorf("%s: %w", message, err))
	}
}

// WatchHealthStatus tells the kubelet how the devices are, now, after each change and often enough to be believed.
func (d *driver) WatchHealthStatus(ctx context.Context, reports chan<- kubeletplugin.DeviceHealthReport) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		devices, changed := d.inventory.snapshot()
		select {
		case <-ctx.Done():
			return nil
		case reports <- health(d.node, devices, time.Now()):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

func health(node string, devices []device, now time.Time) kubeletplugin.DeviceHealthReport {
	var report kubeletplugin.DeviceHealthReport
	for _, d := range devices {
		entry := kubeletplugin.DeviceHealth{PoolName: node, DeviceName: d.name, Health: kubeletplugin.HealthStatusHealthy, LastUpdated: now}
		if d.state != healthy {
			entry.Health, entry.Message = kubeletplugin.HealthStatusUnhealthy, "the device is "+string(d.state)
		}
		report.Devices = append(report.Devices, entry)
	}
	return report
}
