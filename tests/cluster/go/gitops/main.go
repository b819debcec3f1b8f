// Syncs manifests once with the engine of Argo CD, as an Application of it would, and prints as JSON what differed
// before, what was done, and what Argo CD would then say of each resource.
//
// Argo CD itself adds to this engine: a repository, a queue, a user interface, and the Lua for health, which is done
// here as it does it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/engine"
	"github.com/argoproj/gitops-engine/pkg/health"
	"github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// How Argo CD knows what is of an Application, where it is not set up to use an annotation.
	trackingLabel = "app.kubernetes.io/instance"
	manager       = "argocd-controller"
)

type found struct {
	Differs []string                        `json:"differs"`
	Synced  map[string]string               `json:"synced"`
	Left    []string                        `json:"left"`
	Health  map[string]*health.HealthStatus `json:"health"`
}

type application struct {
	name, namespace string
	serverSide      bool
	config          *rest.Config
	cluster         cache.ClusterCache
	overrides       luaHealth
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of the cluster")
	app := application{}
	flag.StringVar(&app.name, "app", "app", "name of the Application")
	flag.StringVar(&app.namespace, "namespace", "default", "where manifests go that name none")
	flag.BoolVar(&app.serverSide, "server-side", false, "as the sync option ServerSideApply=true")
	scripts := flag.String("health", "", "KIND=FILE,… of health.lua")
	flag.Parse()
	klog.LogToStderr(true)

	result, err := run(&app, *kubeconfig, *scripts, flag.Args())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(app *application, kubeconfig, scripts string, files []string) (*found, error) {
	var err error
	if app.overrides, err = readScripts(scripts); err != nil {
		return nil, err
	}
	if app.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, err
	}
	app.config.QPS, app.config.Burst = 50, 100
	targets, err := app.read(files)
	if err != nil {
		return nil, err
	}
	app.cluster = cache.NewClusterCache(app.config, cache.SetPopulateResourceInfoHandler(
		func(un *unstructured.Unstructured, _ bool) (any, bool) { return un.GetLabels()[trackingLabel], true },
	))
	argo := engine.NewEngine(app.config, app.cluster)
	stop, err := argo.Run()
	if err != nil {
		return nil, err
	}
	defer stop()

	result := &found{Synced: map[string]string{}, Health: map[string]*health.HealthStatus{}}
	if result.Differs, err = app.differing(targets, nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done, err := argo.Sync(ctx, targets, app.manages, "main", app.namespace, sync.WithPrune(true),
		sync.WithServerSideApply(app.serverSide), sync.WithServerSideApplyManager(manager), sync.WithHealthOverride(app.overrides))
	if err != nil {
		return nil, err
	}
	for _, one := range done {
		result.Synced[one.ResourceKey.Kind+"/"+one.ResourceKey.Name] = string(one.Status) + ": " + one.Message
	}
	// Its own writes come back by its watches.
	time.Sleep(2 * time.Second)
	result.Left, err = app.differing(targets, result.Health)
	return result, err
}

func (a *application) read(files []string) ([]*unstructured.Unstructured, error) {
	var targets []*unstructured.Unstructured
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		items, err := kube.SplitYAML(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		targets = append(targets, items...)
	}
	for _, target := range targets {
		labels := target.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[trackingLabel] = a.name
		target.SetLabels(labels)
	}
	return targets, nil
}

func (a *application) manages(resource *cache.Resource) bool { return resource.Info == a.name }

// differing names what Argo CD would show as OutOfSync; in reports it notes the health of all.
func (a *application) differing(targets []*unstructured.Unstructured, reports map[string]*health.HealthStatus) ([]string, error) {
	live, err := a.cluster.GetManagedLiveObjs(targets, a.manages)
	if err != nil {
		return nil, err
	}
	both := sync.Reconcile(targets, live, a.namespace, a.cluster)
	options := []diff.Option{diff.WithManager(manager), diff.WithGVKParser(a.cluster.GetGVKParser()), diff.WithStructuredMergeDiff(a.serverSide)}
	diffs, err := diff.DiffArray(both.Target, both.Live, options...)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for i, one := range diffs.Diffs {
		object := both.Live[i]
		if object == nil {
			object = both.Target[i]
		}
		name := object.GetKind() + "/" + object.GetName()
		if one.Modified {
			names = append(names, name)
		}
		if reports != nil && both.Live[i] != nil {
			if reports[name], err = health.GetResourceHealth(both.Live[i], a.overrides); err != nil {
				return nil, fmt.Errorf("health of %s: %w", name, err)
			}
		}
	}
	return names, nil
}

func readScripts(given string) (luaHealth, error) {
	scripts := luaHealth{}
	for _, pair := range strings.FieldsFunc(given, func(r rune) bool { return r == ',' }) {
		kind, file, _ := strings.Cut(pair, "=")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		scripts[kind] = string(text)
	}
	return scripts, nil
}
